// The client as a package: READMEs' lines under `tsc --strict`, types that say what is there, installing, bundling.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import ts from 'typescript';
import * as runtime from '../../client/uringcast.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CLIENT = join(ROOT, 'client');
const NAME = '@uringcast/client';
const USES = `import { Uringcast, UringcastError, isFinal } from '${NAME}';
const client = new Uringcast('ws://127.0.0.1:1/ws', { token: 'x', env: { WebSocket: undefined } });
client.connect();
client.send('hi').catch((error) => console.log(error instanceof UringcastError, error.code, isFinal(4400)));
`;

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), 'uringcast-package-'))));
after(() => rmSync(folder, { recursive: true, force: true }));

/** A program of its own with the package installed from `what`, without a network. */
function install(name, what) {
  const place = join(folder, name);
  mkdirSync(place);
  writeFileSync(join(place, 'package.json'), '{ "private": true, "type": "module" }');
  npm(place, 'install', '--offline', '--no-audit', '--no-fund', '--loglevel=error', what);
  return place;
}

const npm = (cwd, ...args) => execFileSync('npm', args, { cwd, encoding: 'utf8' });

const OPTIONS = {
  noEmit: true, strict: true, skipLibCheck: false, types: [], target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
  module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
};

/** What the compiler has to say of these files. */
function faults(files) {
  const program = ts.createProgram(files, OPTIONS);
  return ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line + 1 : 0;
    return `${file?.fileName}:${line} ${ts.flattenDiagnosticMessageText(messageText, ' ')}`;
  });
}

/** The blocks of a page that import the client, with the package in place of the file. */
function samples(page) {
  const blocks = [...readFileSync(join(ROOT, page), 'utf8').matchAll(/^```(?:js|ts)\n([\s\S]*?)^```/gm)].map(([, block]) => block);
  return blocks.filter((block) => /from '[^']*uringcast\.js'/.test(block)).map((block) => block.replace(/from '[^']*uringcast\.js'/, `from '${NAME}'`));
}

test('the lines of the READMEs compile under strict', { timeout: 60_000 }, () => {
  const place = install('strict', CLIENT);
  const files = ['README.md', 'client/README.md'].flatMap((page) => {
    const blocks = samples(page);
    assert.ok(blocks.length > 0, `${page} has lines that use the client`);
    return blocks.map((block, index) => {
      const file = join(place, `${page.replace(/\W/g, '_')}_${index}.ts`);
      writeFileSync(file, block);
      return file;
    });
  });
  assert.deepEqual(faults(files), []);
});

test('the types refuse what the client refuses, and `sender` may be absent', { timeout: 60_000 }, () => {
  const place = install('wrong', CLIENT);
  const head = `import { Uringcast } from '${NAME}';\nconst client = new Uringcast('ws://h/ws', { token: 't' });\n`;
  const lines = [
    "client.on('message', ({ data }) => data.sender.username);",
    "client.on('nonsense', () => {});",
    'client.send(5);',
    "client.subscribe('news', { recover: 5 });",
    "client.subscribe('news', { recover: { epoch: 'e' } });",
    "new Uringcast('ws://h/ws', {});",
    "new Uringcast('ws://h/ws', { token: 't', queueLimt: 5 });",
    'client.state = "online";',
  ];
  const files = lines.map((line, index) => {
    const file = join(place, `wrong_${index}.ts`);
    writeFileSync(file, head + line);
    return file;
  });
  const found = faults(files);
  for (const [index, file] of files.entries()) assert.ok(found.some((fault) => fault.startsWith(`${file}:3 `)), `nothing is said of: ${lines[index]}`);
  assert.equal(found.length, lines.length, found.join('\n'));
});

test('the types declare what is there, and nothing else', () => {
  const program = ts.createProgram([join(CLIENT, 'uringcast.d.ts')], OPTIONS);
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(join(CLIENT, 'uringcast.d.ts'));
  const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(source));
  const values = exported.filter(({ flags }) => flags & ts.SymbolFlags.Value).map(({ name }) => name);
  assert.deepEqual(values.sort(), Object.keys(runtime).sort());

  const client = new runtime.Uringcast('ws://h/ws', { token: 't' });
  const instances = { Uringcast: client, Subscription: client.subscribe('news') };
  for (const [name, instance] of Object.entries(instances)) {
    const members = [...exported.find((symbol) => symbol.name === name).members.values()];
    const declared = members.filter(({ flags }) => !(flags & (ts.SymbolFlags.Constructor | ts.SymbolFlags.TypeParameter))).map((member) => member.name);
    const there = new Set([...Object.getOwnPropertyNames(runtime[name].prototype), ...Object.keys(instance)]);
    there.delete('constructor');
    assert.deepEqual(declared.sort(), [...there].sort(), name);
  }

  const text = readFileSync(join(CLIENT, 'uringcast.js'), 'utf8');
  const defaults = /^const DEFAULTS = \{$([\s\S]*?)^\};$/m.exec(text)[1].match(/^ {2}(\w+):/gm).map((line) => line.trim().slice(0, -1));
  const options = [...exported.find(({ name }) => name === 'ClientOptions').members.keys()];
  assert.deepEqual(options.sort(), [...defaults, 'token', 'env'].sort());
});

for (const kind of ['path', 'archive']) {
  test(`installed by ${kind} it works in Node and through a bundler`, { timeout: 60_000 }, async () => {
    let what = CLIENT;
    if (kind === 'archive') {
      const [{ filename, files }] = JSON.parse(npm(CLIENT, 'pack', '--json', '--pack-destination', folder));
      const packed = files.map(({ path }) => path).sort();
      const modules = readdirSync(join(CLIENT, 'uringcast')).map((name) => `uringcast/${name}`);
      assert.deepEqual(packed, ['README.md', 'package.json', 'uringcast.d.ts', 'uringcast.js', ...modules].sort());
      what = join(folder, filename);
    }
    const place = install(kind, what);
    writeFileSync(join(place, 'uses.js'), USES);
    const run = (file) => execFileSync(process.execPath, [file], { cwd: place, encoding: 'utf8' });
    assert.equal(run('uses.js'), 'true closed true\n');
    for (const platform of ['browser', 'node']) {
      const outfile = join(place, `bundle-${platform}.mjs`);
      const { warnings } = await build({ entryPoints: [join(place, 'uses.js')], bundle: true, minify: true, platform, format: 'esm', outfile, logLevel: 'silent' });
      assert.deepEqual(warnings, []);
      assert.equal(run(outfile), 'true closed true\n');
    }
  });
}
