// The page's wiring: who one is, what is kept in the browser, and which part hears of what. The parts themselves:
// connection.js (the socket and the outbox), timeline.js (messages), composer.js (writing and typing), sidebar.js
// (rooms and people), alerts.js (title, notifications, screen readers), text.js (text to DOM).

import { Alerts } from './alerts.js';
import { Composer, TypingLine } from './composer.js';
import { Connection, randomKey } from './connection.js';
import { Drawer, People, Rooms } from './sidebar.js';
import { fold } from './text.js';
import { Timeline } from './timeline.js';

const $ = (id) => document.getElementById(id);
const room = location.pathname.match(/^\/r\/([^/]+)/)?.[1] ?? 'lobby';

/** Storage that may not be there (private windows, blocked cookies): then what is kept lives as long as the page. */
function openStore(kind) {
  const fallback = new Map();
  const storage = () => window[kind]; // the access itself may throw
  return {
    get(key, otherwise) {
      try {
        return JSON.parse(storage().getItem(`bobbin.${key}`)) ?? otherwise;
      } catch {
        return fallback.get(key) ?? otherwise;
      }
    },
    set(key, value) {
      fallback.set(key, value);
      try {
        storage().setItem(`bobbin.${key}`, JSON.stringify(value));
      } catch {
        // full or forbidden: the fallback has it
      }
    },
  };
}

const browser = openStore('localStorage'); // shared by this browser's tabs
const tab = openStore('sessionStorage'); // this tab's own; survives a reload

/** The secret by which the server knows a comeback from a stranger. One for the browser: see `askOtherTabs`. */
function clientSecret() {
  const client = browser.get('client') ?? randomKey();
  browser.set('client', client);
  return client;
}

// --- the parts

const connection = new Connection(room, clientSecret(), {
  state: showState,
  outbox: showOutbox,
  welcome,
  messages,
  presence,
  typing: ({ name, active }) => typingLine.set(name, active),
  hole: (id) => timeline.forgetBefore(id),
});

const timeline = new Timeline({ scroller: $('scroller'), list: $('list'), jump: $('jump') }, {
  loadOlder: (before) => connection.history(before),
  retry: (ref) => connection.retry(ref),
  discard: (ref) => connection.discard(ref),
  read: (id) => browser.set(`read.${room}`, id),
  unread: (count) => alerts.unread(count),
  knownNames: () => people.names,
});

const composer = new Composer({ form: $('composer'), box: $('text'), counter: $('counter'), send: $('send') }, {
  send: (text) => {
    connection.say(text);
    timeline.spoke();
  },
  typing: (active) => connection.typing(active),
  draft: (text) => browser.set(`draft.${room}`, text),
  recall: () => timeline.lastOwnText(),
});

const typingLine = new TypingLine($('typing'));
const drawer = new Drawer({ sidebar: $('sidebar'), main: $('main'), open: $('open-drawer'), close: $('close-drawer'), shade: $('shade') });
const people = new People({ list: $('people'), rest: $('people-rest') }, {
  chosen: (name) => {
    drawer.show(false);
    composer.mention(name);
  },
  counted: (count) => {
    $('count').textContent = $('people-count').textContent = count;
  },
});
const alerts = new Alerts({ icon: $('icon'), choice: $('notify'), hint: $('notify-hint'), log: $('announce') }, room, browser);
new Rooms({ list: $('rooms'), form: $('go'), input: $('go-room'), error: $('go-error') }, room, browser);

// --- what the server tells

function welcome(frame, since) {
  timeline.me = typingLine.me = frame.name;
  $('my-name').textContent = frame.name;
  browser.set('name', frame.name);
  tab.set('name', frame.name);
  tab.set('passphrase', connection.passphrase);
  close($('join'));
  close($('away'));
  typingLine.clear();
  people.reset(frame.name, frame.names, frame.participants);
  if (frame.gap) timeline.gap();
  if (!since) timeline.open(frame.messages, frame.more, browser.get(`read.${room}`, null));
}

function messages(list, how) {
  if (how !== 'first') timeline.add(list);
  showOutbox();
  const others = list.filter(({ name }) => fold(name) !== fold(connection.name));
  for (const { name } of others) typingLine.set(name, false);
  if (how !== 'first' && others.length) alerts.came(others, connection.name);
}

// Comings and goings are told after a moment, so that a reload or a short cut shows nothing at all.
const TELL_AFTER = 2500;
const leaving = new Map(); // folded name → timer

function presence(frame) {
  people.change(frame);
  for (const name of frame.left) {
    typingLine.set(name, false);
    clearTimeout(leaving.get(fold(name)));
    leaving.set(fold(name), setTimeout(() => {
      leaving.delete(fold(name));
      timeline.notice([], [name]);
    }, TELL_AFTER));
  }
  const joined = frame.joined.filter((name) => {
    const timer = leaving.get(fold(name));
    clearTimeout(timer);
    return !leaving.delete(fold(name));
  });
  if (joined.length) timeline.notice(joined, []);
}

// --- what is shown of the connection

function showOutbox() {
  timeline.setPending(connection.outbox);
  tab.set(`outbox.${room}`, connection.outbox);
}

let statusTimer = 0;

/** The line under the heading, in words for people. It comes with a delay, so that short cuts do not flash. */
function showState() {
  const { state, offline, backplane } = connection;
  document.body.dataset.state = state;
  clearTimeout(statusTimer);
  const words = statusWords(state, offline, backplane);
  if (words) statusTimer = setTimeout(() => showStatus(words, state), $('status').firstChild.hidden ? 700 : 0);
  else showStatus('', state);
  if (state === 'refused') askName(connection.reason);
  if (state === 'elsewhere') showAway('You are here in another tab', 'This room is open as you in another tab or window, so it rests in this one.', 'Use it here');
  if (state === 'stopped') showAway('Disconnected', STOPPED[connection.reason], 'Connect again');
}

const STOPPED = {
  policy: 'The server ended the connection, because this page sent too much that it could not accept.',
  locked: 'The passphrase was wrong too often.',
};

function statusWords(state, offline, backplane) {
  if (['idle', 'refused', 'elsewhere', 'stopped'].includes(state)) return '';
  if (offline) return 'You are offline. What you write waits here and goes out when you are back.';
  if (state === 'restarting') return 'The server is restarting. Back in a moment.';
  if (state === 'joined') return backplane === 'down' ? 'The server has lost its message store. What you write waits here until it is back.' : '';
  if (backplane === 'down') return 'The server’s message store is away. Trying again shortly.';
  return connection.name && timeline.me ? 'The connection was lost. Reconnecting…' : 'Connecting…';
}

function showStatus(words, state) {
  const [line] = $('status').children;
  line.hidden = !words;
  line.firstElementChild.textContent = words;
  $('try-now').hidden = state !== 'waiting';
}

$('try-now').addEventListener('click', () => connection.wake());

// --- joining

const REFUSALS = {
  name_invalid: 'A name has 1 to 32 characters, without control characters.',
  name_taken: 'Somebody with this name is here already. Choose another.',
  unauthorized: 'That is not the passphrase.',
  locked: 'The passphrase was wrong too often. Wait a moment, then try again.',
};

function askName(reason = '', words = REFUSALS[reason] ?? '') {
  const form = $('join');
  if (!form.open) form.showModal();
  const pass = reason === 'unauthorized' || reason === 'locked' || !$('passphrase-field').hidden;
  $('passphrase-field').hidden = !pass;
  if (reason === 'unauthorized' && !connection.passphrase) words = 'This chat asks for a passphrase.';
  $('join-problem').textContent = words;
  $('name').value ||= connection.name ?? browser.get('name', '');
  $('name').setAttribute('aria-invalid', String(reason.startsWith('name')));
  const field = reason === 'unauthorized' ? $('passphrase') : $('name');
  field.focus();
  field.select();
}

$('join-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('name').value.trim().replace(/\s+/g, ' ');
  if (!name || [...name].length > 32) return askName('name_invalid');
  connection.join(name, $('passphrase').value || undefined);
});

$('rename').addEventListener('click', () => {
  drawer.show(false);
  connection.leave();
  location.hash = ''; // nothing: the form below decides
  askName();
});

function showAway(title, text, button) {
  $('away-title').textContent = title;
  $('away-text').textContent = text;
  $('come-back').textContent = button;
  if (!$('away').open) $('away').showModal();
}

$('come-back').addEventListener('click', () => {
  close($('away'));
  connection.join(connection.name, connection.passphrase);
});

function close(dialog) {
  if (dialog.open) dialog.close('done');
}

for (const dialog of [$('join'), $('away')]) {
  // These are questions that must be answered: Escape does not make them go away.
  dialog.addEventListener('cancel', (event) => event.preventDefault());
  dialog.addEventListener('close', () => {
    if (dialog.returnValue !== 'done') dialog.showModal();
    else if (!$('join').open && !$('away').open) $('text').focus();
    dialog.returnValue = '';
  });
}

// --- inviting

$('invite').addEventListener('click', async () => {
  const link = `${location.origin}/r/${room}`;
  let done = 'Link copied';
  try {
    await navigator.clipboard.writeText(link);
  } catch {
    done = link; // no clipboard on plain http: show it, to be copied by hand
  }
  $('invite').textContent = done;
  setTimeout(() => ($('invite').textContent = 'Invite'), 4000);
});

// --- other tabs of this browser

// A second tab with the same name would take the first one's place: fine if meant, so it is asked for, not assumed.
const tabs = 'BroadcastChannel' in window ? new BroadcastChannel('bobbin') : null;
const isHere = (name) => connection.state === 'joined' && fold(connection.name) === fold(name);
tabs?.addEventListener('message', ({ data }) => {
  if (data.ask === room && isHere(data.name)) tabs.postMessage({ here: room });
});

function askOtherTabs(name) {
  if (!tabs) return Promise.resolve(false);
  return new Promise((resolve) => {
    tabs.addEventListener('message', ({ data }) => data.here === room && resolve(true));
    tabs.postMessage({ ask: room, name });
    setTimeout(resolve, 150, false);
  });
}

// --- and go

async function start() {
  $('room-name').textContent = $('join-room').textContent = room;
  composer.restore(browser.get(`draft.${room}`, ''));
  connection.restore(tab.get(`outbox.${room}`, []));
  const name = tab.get('name') ?? browser.get('name');
  if (!name) return askName();
  if (await askOtherTabs(name)) return askName('', `You are here as ${name} in another tab. Joining moves you to this one; with another name you are two.`);
  connection.join(name, tab.get('passphrase'));
  $('text').focus();
}

start();
