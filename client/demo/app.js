// The demo page: sign in by name, chat, see who is online.
//
// It turns the client's events into elements and the forms into calls, and holds nothing that the client holds already.
// Whatever comes from the network enters the page through `textContent` only.

import { Uringcast } from '/uringcast.js';

const LOG_LIMIT = 500; // entries kept in the page
const PEOPLE_LIMIT = 500; // names shown; the count is always whole
const PAGE_SIZE = 100;
const SAME_BREATH_MS = 120_000; // within this, one person's messages share a heading

const byId = (id) => document.getElementById(id);
const page = {
  status: byId('status'), signOut: byId('sign-out'), door: byId('door'), signIn: byId('sign-in'), notice: byId('notice'),
  name: byId('name'), room: byId('room'), log: byId('log'), outbox: byId('outbox'), composer: byId('composer'),
  text: byId('text'), count: byId('count'), people: byId('people'), more: byId('more'),
};

let client = null;
let countdown = null;
let lastMessage = null; // { senderId, timestamp } (null: the backend) while the last entry of the log is a message
let readingEnd = true;
const people = new Map(); // user id as a string → user
let wentWhileListing = null; // ids that went offline while the list was on its way

page.name.value = sessionStorage.getItem('name') ?? '';
page.name.focus();

page.log.addEventListener('scroll', () => {
  readingEnd = page.log.scrollHeight - page.log.scrollTop - page.log.clientHeight < 80;
});
new ResizeObserver(followEnd).observe(page.log); // the waiting messages, or a phone's keyboard, take room from it

// ---- forms ----

page.signIn.addEventListener('submit', (event) => {
  event.preventDefault();
  const name = page.name.value.trim();
  if (!name) return;
  sessionStorage.setItem('name', name);
  signIn(name);
});

page.composer.addEventListener('submit', (event) => {
  event.preventDefault();
  const text = page.text.value;
  if (!text.trim()) return;
  page.text.value = '';
  send(text);
});

page.signOut.addEventListener('click', () => client?.disconnect());

function signIn(name) {
  client?.disconnect();
  const url = new URL('/ws', location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const own = new Uringcast(url, { token: () => fetchToken(name) });
  client = own;
  page.log.replaceChildren();
  page.outbox.replaceChildren();
  lastMessage = null;
  clearPeople();

  own.on('state', (event) => own === client && showState(event));
  own.on('message', ({ data }) => addMessage(data));
  // A backend may publish data in the lobby, which has no text.
  own.on('publication', ({ data }) => addMessage({ ...data, text: JSON.stringify(data.data) }));
  own.on('gap', ({ data }) => {
    const count = data.to - data.from + 1;
    addNote(count === 1 ? '1 message was missed.' : `${count} messages were missed.`);
  });
  own.on('user_online', ({ data }) => comeOrGo(data, true));
  own.on('user_offline', ({ data }) => comeOrGo(data, false));
  own.on('error', ({ message }) => addNote(message ?? 'The server reported an error'));
  own.on('auth_success', ({ data }) => {
    page.count.textContent = data.online_count;
    listPeople(own);
  });
  own.connect();
}

async function fetchToken(name) {
  const response = await fetch(`/token?name=${encodeURIComponent(name)}`, { cache: 'no-store' });
  if (response.ok) return (await response.json()).token;
  const reason = (await response.text()).trim().slice(0, 200);
  const error = new Error(reason || `the server answered ${response.status}`);
  error.final = response.status >= 400 && response.status < 500 && response.status !== 429;
  throw error;
}

// ---- the state of the connection ----

function showState({ state, previous, retryInMs, code, reason, by, missed }) {
  clearInterval(countdown);
  page.status.dataset.state = state;
  const inRoom = state !== 'closed' && (client.user !== null || !page.room.hidden);
  page.room.hidden = !inRoom;
  page.door.hidden = inRoom;
  page.signOut.disabled = state === 'closed'; // unseen then, but it keeps its place: nothing moves at a sign-in
  page.signIn.querySelector('button').disabled = state !== 'closed';

  if (state === 'connecting') page.status.textContent = 'Connecting…';
  else if (state === 'authenticating') page.status.textContent = 'Signing in…';
  else if (state === 'online') cameOnline(missed);
  else if (state === 'waiting') {
    if (previous === 'online') addNote('Connection lost. What you write now is sent once it is back.');
    countDown(retryInMs);
  } else if (state === 'closed') {
    const why = by === 'client' && code === 1000 ? '' : explain(code, reason);
    page.status.textContent = code === 4409 ? 'Signed in elsewhere' : 'Signed out';
    page.notice.textContent = why;
    page.notice.hidden = why === '';
    page.name.focus();
  }
}

function cameOnline(missed) {
  page.status.textContent = 'Online';
  page.notice.hidden = true;
  if (missed === null) addNote('Connected again. Messages may have been missed.');
  if (!page.room.contains(document.activeElement)) page.text.focus({ preventScroll: true });
}

function countDown(ms) {
  const end = performance.now() + ms;
  const seconds = element('span');
  seconds.setAttribute('aria-hidden', 'true'); // a reader needn't speak every second
  page.status.replaceChildren('Reconnecting', seconds);
  const show = () => {
    const left = Math.max(0, Math.ceil((end - performance.now()) / 1000));
    seconds.textContent = left > 0 ? ` in ${left} s` : '…';
  };
  show();
  countdown = setInterval(show, 250);
}

function explain(code, reason) {
  if (code === 4409) return 'You signed in under this name elsewhere, so this tab was signed out.';
  if (code === 4429) return 'Too many sign-ins under this name. Try again in a moment.';
  if (code === 4401) return `The sign-in was refused${reason ? `: ${reason}` : ''}.`;
  return `The connection was closed${reason ? `: ${reason}` : ''} (${code}).`;
}

// ---- messages ----

async function send(text, idempotencyKey) {
  const item = element('li');
  item.append(element('span', 'text', text), element('span', 'fate', 'waiting'));
  page.outbox.append(item);
  const own = client;
  try {
    await own.send(text, { idempotencyKey });
    item.remove();
  } catch (error) {
    item.classList.add('failed');
    item.querySelector('.fate').textContent = error.outcome === 'unknown' ? `perhaps not sent: ${error.message}` : `not sent: ${error.message}`;
    const again = element('button', 'quiet', 'Try again');
    again.type = 'button';
    again.addEventListener('click', () => {
      item.remove();
      send(text, error.outcome === 'unknown' ? error.idempotencyKey : undefined);
    });
    const dismiss = element('button', 'quiet', 'Dismiss');
    dismiss.type = 'button';
    dismiss.addEventListener('click', () => item.remove());
    item.append(again, dismiss);
  }
}

/** A message without a sender is from the backend. It looks like no user's, whatever a user is called. */
function addMessage({ sender = null, text, timestamp }) {
  const senderId = sender === null ? null : String(sender.id);
  const own = sender !== null && client.user !== null && senderId === String(client.user.id);
  const sameBreath = lastMessage !== null && lastMessage.senderId === senderId && timestamp - lastMessage.timestamp < SAME_BREATH_MS;
  const item = element('div', `message${own ? ' own' : ''}${sender === null ? ' backend' : ''}`);
  if (!sameBreath) {
    item.classList.add('first');
    if (sender === null) item.append(element('span', 'sender', 'Announcement'));
    else item.append(element('span', `sender hue-${hue(sender.id)}`, own ? `${sender.username} (you)` : sender.username));
  }
  item.append(element('p', 'text', text), timeOf(timestamp));
  append(item);
  lastMessage = { senderId, timestamp };
}

function addNote(text, timestamp = Date.now()) {
  const item = element('div', 'note');
  item.append(element('span', 'text', text), timeOf(timestamp));
  append(item);
  lastMessage = null;
}

function append(item) {
  const { log } = page;
  log.append(item);
  while (log.childElementCount > LOG_LIMIT) log.firstElementChild.remove();
  if (item.classList.contains('own')) readingEnd = true;
  followEnd();
}

/** Stays with the newest message, unless somebody has scrolled back to read. */
function followEnd() {
  if (readingEnd) page.log.scrollTop = page.log.scrollHeight;
}

// ---- who is online ----

function comeOrGo({ user, online_count: count, timestamp }, online) {
  page.count.textContent = count;
  const id = String(user.id);
  if (online) {
    wentWhileListing?.delete(id);
    addPerson(user);
  } else {
    wentWhileListing?.add(id);
    removePerson(id);
  }
  countTheRest();
  addNote(`${user.username} ${online ? 'joined' : 'left'}`, timestamp);
}

/** Events that arrive while the pages are on their way count for more than the pages. */
async function listPeople(own) {
  const went = new Set();
  wentWhileListing = went;
  let first = true;
  try {
    for await (const { members } of own.userPages({ limit: PAGE_SIZE })) {
      if (own !== client || wentWhileListing !== went) return;
      if (first) {
        clearPeople(); // what came before the first page is in it
        went.clear();
      }
      first = false;
      for (const { user } of members) if (!went.has(String(user.id))) addPerson(user);
      if (people.size >= PEOPLE_LIMIT) break;
    }
    countTheRest();
  } catch (error) {
    if (own === client && own.state === 'online') addNote(`The list of who is online could not be fetched: ${error.message}`);
  } finally {
    if (wentWhileListing === went) wentWhileListing = null;
  }
}

function addPerson(user) {
  const id = String(user.id);
  if (people.has(id) || people.size >= PEOPLE_LIMIT) return;
  people.set(id, user);
  const own = client.user !== null && id === String(client.user.id);
  const item = element('li', own ? 'own' : '');
  item.dataset.id = id;
  const mark = element('span', `mark hue-${hue(user.id)}`, [...user.username][0]?.toUpperCase() ?? '?');
  mark.setAttribute('aria-hidden', 'true');
  item.append(mark, element('span', 'username', user.username));
  if (own) item.append(element('span', 'you', '(you)'));
  if (own) page.people.prepend(item);
  else page.people.append(item);
}

function removePerson(id) {
  people.delete(id);
  for (const item of page.people.children) if (item.dataset.id === id) return item.remove();
}

function clearPeople() {
  people.clear();
  page.people.replaceChildren();
  page.more.hidden = true;
}

function countTheRest() {
  const rest = Number(page.count.textContent) - people.size;
  page.more.hidden = people.size < PEOPLE_LIMIT || rest <= 0;
  page.more.textContent = `and ${rest} more`;
}

// ---- elements ----

function element(tag, className = '', text = '') {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function timeOf(timestamp) {
  const date = new Date(timestamp);
  const time = element('time', '', date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }));
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  return time;
}

/** One of eight colours, always the same for one user. */
function hue(id) {
  let hash = 0;
  for (const char of String(id)) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return hash % 8;
}
