// The page's wiring: who one is, what the browser keeps, and which part hears of what. The parts: connection.js (the
// socket and the outbox), timeline.js (messages), composer.js (writing and typing), sidebar.js (rooms and people),
// alerts.js (title, notifications, screen readers), text.js (text to DOM).

import { Alerts } from './alerts.js';
import { Composer, TypingLine } from './composer.js';
import { Connection, randomKey } from './connection.js';
import { Drawer, People, showRooms } from './sidebar.js';
import { fold } from './text.js';
import { Timeline } from './timeline.js';

const $ = (id) => document.getElementById(id);
const room = location.pathname.match(/^\/r\/([^/]+)/)?.[1] ?? 'lobby';

/** Storage that may not be there (private windows, blocked cookies): then what is kept lives as long as the page. */
function openStore(kind) {
  const memory = new Map();
  return {
    get(key, otherwise) {
      try {
        return JSON.parse(window[kind].getItem(`bobbin.${key}`)) ?? memory.get(key) ?? otherwise;
      } catch {
        return memory.get(key) ?? otherwise;
      }
    },
    set(key, value) {
      memory.set(key, value);
      try {
        window[kind].setItem(`bobbin.${key}`, JSON.stringify(value));
      } catch {
        // forbidden or full
      }
    },
  };
}

const browser = openStore('localStorage'); // shared by this browser's tabs
const tab = openStore('sessionStorage'); // this tab's own; survives a reload

// The secret by which the server knows a comeback from a stranger. It is the browser's, not the tab's, so that one's
// place can be taken over in another tab: see `isInAnotherTab`.
const client = browser.get('client') ?? randomKey();
browser.set('client', client);

// --- the parts

const connection = new Connection(room, client, {
  state: showState,
  outbox: () => {
    timeline.setPending(connection.outbox);
    tab.set(`outbox.${room}`, connection.outbox);
  },
  welcome,
  messages,
  presence,
  typing: ({ name, active }) => typingLine.set(name, active),
});

const timeline = new Timeline($('scroller'), $('list'), $('jump'), {
  loadOlder: (before) => connection.history(before),
  retry: (ref) => connection.say(connection.discard(ref)),
  discard: (ref) => connection.discard(ref),
  read: (id) => browser.set(`read.${room}`, id),
  unread: (count) => alerts.unread(count),
  names: () => people.names,
});

const composer = new Composer($('composer'), $('text'), $('counter'), $('send'), {
  send: (text) => {
    connection.say(text);
    timeline.spoke();
  },
  typing: (active) => connection.typing(active),
  draft: (text) => browser.set(`draft.${room}`, text),
  recall: () => timeline.lastOwnText(),
});

const typingLine = new TypingLine($('typing'));
const drawer = new Drawer($('sidebar'), $('main'), $('open-drawer'), $('close-drawer'), $('shade'));
const people = new People($('people'), $('people-rest'), {
  chosen: (name) => {
    drawer.show(false);
    composer.mention(name);
  },
  counted: (count) => {
    $('count').textContent = $('people-count').textContent = count;
  },
});
const alerts = new Alerts($('icon'), $('notify'), $('notify-hint'), $('announce'), room, browser);
showRooms($('rooms'), $('go'), $('go-room'), $('go-problem'), room, browser);

// --- what the server tells

function welcome(frame, resumed) {
  timeline.me = typingLine.me = $('my-name').textContent = frame.name;
  for (const store of [browser, tab]) store.set('name', frame.name);
  tab.set('passphrase', connection.passphrase);
  answered($('join'));
  answered($('away'));
  typingLine.clear();
  people.reset(frame.name, frame.names, frame.participants);
  if (frame.gap) timeline.gap();
  if (!resumed) timeline.open(frame.messages, frame.more, browser.get(`read.${room}`, null));
}

/** `news`: not the history that a first welcome brings. */
function messages(list, news) {
  for (const { name } of list) typingLine.set(name, false);
  if (!news) return;
  timeline.add(list);
  const others = list.filter(({ name }) => fold(name) !== fold(connection.name));
  if (others.length) alerts.came(others, connection.name);
}

// Who left is told after a moment, so that a reload or a short cut shows nothing at all.
const LEFT_AFTER = 2500;
const leaving = new Map(); // name → timer

function presence(frame) {
  people.change(frame);
  for (const name of frame.left) {
    typingLine.set(name, false);
    const tell = () => leaving.delete(name) && timeline.notice([], [name]);
    leaving.set(name, setTimeout(tell, LEFT_AFTER));
  }
  const joined = frame.joined.filter((name) => {
    clearTimeout(leaving.get(name));
    return !leaving.delete(name);
  });
  if (joined.length) timeline.notice(joined, []);
}

// --- the connection, in words for people

const STOPPED = {
  policy: 'The server ended the connection, because this page sent too much that it could not accept.',
  locked: 'The passphrase was wrong too often.',
};
let statusTimer = 0;

function showState() {
  const { state, reason } = connection;
  document.body.dataset.state = state;
  if (state === 'refused') ask(reason);
  if (state === 'elsewhere') rest('You are here in another tab', `There, you are ${connection.name} in this room. This tab has stepped aside.`, 'Use this tab');
  if (state === 'stopped') rest('Disconnected', STOPPED[reason], 'Connect again');
  clearTimeout(statusTimer);
  const [line] = $('status').children;
  const words = statusWords(connection);
  // It comes with a delay, so that short cuts do not flash.
  statusTimer = setTimeout(() => {
    line.hidden = !words;
    line.firstElementChild.textContent = words;
    line.lastElementChild.hidden = state !== 'waiting';
  }, words && line.hidden ? 700 : 0);
}

function statusWords({ state, offline, restarting, backplane }) {
  if (!['connecting', 'joined', 'waiting'].includes(state)) return '';
  if (offline) return 'You are offline. What you write waits here and goes out when you are back.';
  if (backplane === 'down') return 'The server cannot reach its store. What you write waits here until it can.';
  if (state === 'joined') return '';
  if (restarting) return 'The server is restarting. Back in a moment.';
  return timeline.me ? 'The connection was lost. Reconnecting…' : 'Connecting…';
}

$('status').addEventListener('click', ({ target }) => target.matches('button') && connection.wake());

// --- the two questions: who are you, and do you want to be here

const REFUSED = {
  name_invalid: 'A name has 1 to 32 characters and nothing invisible.',
  name_taken: 'Somebody with this name is here. Choose another.',
  unauthorized: 'That is not the passphrase.',
  locked: 'The passphrase was wrong too often. Wait a moment, then try again.',
};

function ask(reason = '', words = REFUSED[reason] ?? reason) {
  const [name, passphrase] = [$('name'), $('passphrase')];
  if (!$('join').open) {
    name.value = connection.name ?? browser.get('name', '');
    $('join').showModal();
  }
  const secret = reason === 'unauthorized' || reason === 'locked';
  if (secret) passphrase.hidden = passphrase.previousElementSibling.hidden = false;
  $('join-problem').textContent = reason === 'unauthorized' && !connection.passphrase ? 'This chat asks for a passphrase.' : words;
  const field = secret ? passphrase : name;
  field.focus();
  field.select();
}

function rest(title, text, label) {
  $('away-title').textContent = title;
  $('away-text').textContent = text;
  $('come-back').textContent = label;
  if (!$('away').open) $('away').showModal();
}

function submitted(dialog, act) {
  dialog.addEventListener('submit', (event) => {
    event.preventDefault();
    act();
  });
  // The question wants an answer: Escape does not make it go away.
  dialog.addEventListener('cancel', (event) => event.preventDefault());
  dialog.addEventListener('close', () => dialog.returnValue || dialog.showModal());
}

function answered(dialog) {
  if (!dialog.open) return;
  dialog.close('answered');
  $('text').focus();
}

submitted($('join'), () => {
  const name = $('name').value.trim().replace(/\s+/g, ' ');
  if (name) connection.join(name, $('passphrase').value || undefined);
  else ask('name_invalid');
});
submitted($('away'), () => {
  answered($('away'));
  connection.join(connection.name, connection.passphrase);
});

$('rename').addEventListener('click', () => {
  drawer.show(false);
  connection.leave();
  ask();
});

// --- inviting

$('invite').addEventListener('click', async () => {
  const link = `${location.origin}/r/${room}`;
  try {
    await navigator.clipboard.writeText(link);
    $('invite').textContent = 'Link copied';
    setTimeout(() => ($('invite').textContent = 'Invite'), 3000);
  } catch {
    prompt('The link to this room:', link); // there is no clipboard on plain http
  }
});

// --- other tabs of this browser

// A second tab under the same name would take the first one's place. Fine if that is meant, so it is asked.
const tabs = 'BroadcastChannel' in window ? new BroadcastChannel('bobbin') : null;

tabs?.addEventListener('message', ({ data }) => {
  const here = connection.state === 'joined' && fold(connection.name) === fold(data.name ?? '');
  if (here && data.asked === room) tabs.postMessage({ here: room });
});

function isInAnotherTab(name) {
  return new Promise((resolve) => {
    tabs?.addEventListener('message', ({ data }) => data.here === room && resolve(true));
    tabs?.postMessage({ asked: room, name });
    setTimeout(resolve, tabs ? 150 : 0, false);
  });
}

// --- and go

$('room-name').textContent = $('join-room').textContent = room;
composer.restore(browser.get(`draft.${room}`, ''));
connection.restore(tab.get(`outbox.${room}`, []));
const name = tab.get('name') ?? browser.get('name');
if (!name) ask();
else if (await isInAnotherTab(name)) ask('', `You are here as ${name} in another tab. Joining moves you to this one; under another name, you are two.`);
else {
  connection.join(name, tab.get('passphrase'));
  $('text').focus();
}
