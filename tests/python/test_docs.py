"""What the pages name is there: files, headings, settings' sections, and the tests that docs/security.md appeals to."""

import glob
import os
import re
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PAGES = sorted(
    os.path.relpath(path, ROOT)
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "client/*.md", "benches/*.md", "benches/peers/*.md", "tuning/*.md", "tests/browser/*.md")
    for path in glob.glob(os.path.join(ROOT, pattern))
)
# Where paths in backticks may begin. What is below target/ is made by a build.
FOLDERS = ("src/", "tests/", "docs/", "examples/", "benches/", "fuzz/", "loadgen/", "client/", "tuning/", "blackbox/")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def without_code(text):
    """The page without its blocks of code, whose words are no links."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)


def anchors(path):
    """The anchors that GitHub makes of the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", without_code(read(path)), flags=re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number = 0
        while name + (f"-{number}" if number else "") in found:
            number += 1
        found.add(name + (f"-{number}" if number else ""))
    return found


def headings(path):
    return {re.sub(r"[`*]", "", heading) for heading in re.findall(r"^#+ (.*)$", without_code(read(path)), flags=re.M)} | {
        # A bold beginning of a paragraph or of a list's item serves as a heading too.
        re.sub(r"[.:]$", "", bold) for bold in re.findall(r"^(?:- |)\*\*([^*]+)\*\*", read(path), flags=re.M)
    }


class Links(unittest.TestCase):
    def test_each_link_leads_somewhere(self):
        count, broken = 0, []
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", without_code(read(page))):
                if re.match(r"[a-z]+:", target):
                    continue
                count += 1
                file, _, anchor = target.partition("#")
                path = os.path.normpath(os.path.join(os.path.dirname(page), file)) if file else page
                if not os.path.exists(os.path.join(ROOT, path)):
                    broken.append(f"{page}: {target}: there is no {path}")
                elif anchor and path.endswith(".md") and anchor not in anchors(path):
                    broken.append(f"{page}: {target}: {path} has no such heading")
        self.assertEqual(broken, [])
        self.assertGreater(count, 100)

    def test_each_path_in_backticks_is_there(self):
        count, broken = 0, []
        for page in PAGES:
            for name in re.findall(r"`([\w./*-]+)`", without_code(read(page))):
                if not name.startswith(FOLDERS) or "*" in name:
                    continue
                count += 1
                places = (name, f"tests/{name}", os.path.join(os.path.dirname(page), name))
                if not any(os.path.exists(os.path.join(ROOT, place)) for place in places):
                    broken.append(f"{page}: {name}")
        self.assertEqual(broken, [])
        self.assertGreater(count, 50)

    def test_each_heading_that_the_code_names_is_there(self):
        count, broken = 0, []
        for pattern in ("src/**/*.rs", "tests/**/*.rs", "loadgen/**/*.rs", "client/**/*.js", "examples/*", "tests/**/*.py"):
            for file in glob.glob(os.path.join(ROOT, pattern), recursive=True):
                if not os.path.isfile(file) or "/node_modules/" in file:
                    continue
                with open(file, encoding="utf-8") as source:
                    # A comment may be broken anywhere.
                    text = re.sub(r"\n\s*(//[/!]?|#|\*)?\s*", " ", source.read())
                for page, heading in re.findall(r'\b(docs/[\w-]+\.md), "([^"]+)"', text):
                    count += 1
                    if heading not in headings(page):
                        broken.append(f"{os.path.relpath(file, ROOT)}: {page} has no heading {heading}")
        self.assertEqual(broken, [])
        self.assertGreater(count, 5)

    def test_each_page_is_linked_from_another(self):
        linked = set()
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s#]+)", read(page)):
                linked.add(os.path.normpath(os.path.join(os.path.dirname(page), target)))
        alone = [page for page in PAGES if page.startswith("docs/") and page not in linked]
        self.assertEqual(alone, [])


class Security(unittest.TestCase):
    def test_each_test_that_a_threat_is_shown_by_is_there(self):
        rows = re.findall(r"^\|[^|\n]+\|[^|\n]+\|([^|\n]+)\|$", read("docs/security.md"), flags=re.M)[2:]
        sources = "".join(read(os.path.relpath(file, ROOT)) for file in glob.glob(os.path.join(ROOT, "*s*/**/*.rs"), recursive=True))
        names = [name for row in rows for name in re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+){2,})`", row)]
        self.assertEqual([name for name in names if f"fn {name}" not in sources], [])
        self.assertGreater(len(names), 10)


if __name__ == "__main__":
    unittest.main()
