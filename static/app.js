// The page's wiring: who one is, what the browser keeps, and which part hears of what. Each part says at its head what
// it is for.

import { Alerts } from './alerts.js';
import { Composer, TypingLine } from './composer.js';
import { Connection, randomKey } from './connection.js';
import { People, showRooms } from './sidebar.js';
import { listen, onSubmit, same } from './text.js';
import { Timeline } from './timeline.js';

const $ = (id) => document.getElementById(id);
const room = location.pathname.match(/^\/r\/([^/]+)/)?.[1] ?? 'lobby';

/** Storage that may not be there (private windows, blocked cookies): then it lasts as long as the page. */
function openStore(kind) {
	const memory = {};
	const attempt = (act) => {
		try {
			return act(window[kind]);
		} catch {
			return null; // forbidden or full
		}
	};
	return {
		get: (key) => attempt((storage) => JSON.parse(storage.getItem(`bobbin.${key}`))) ?? memory[key],
		set(key, value) {
			memory[key] = value;
			attempt((storage) => storage.setItem(`bobbin.${key}`, JSON.stringify(value)));
		},
	};
}

const browser = openStore('localStorage'); // shared by this browser's tabs
const tab = openStore('sessionStorage'); // this tab's own; survives a reload

// The secret by which the server knows a comeback from a stranger. It is the browser's, not the tab's: one's place can
// be taken over in another tab.
const client = browser.get('client') ?? randomKey();
browser.set('client', client);

// --- the parts

const connection = new Connection(room, client, {
	state: showState,
	outbox() {
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
	send(text) {
		connection.say(text);
		timeline.spoke();
	},
	typing: (active) => connection.typing(active),
	draft: (text) => browser.set(`draft.${room}`, text),
	recall: () => timeline.lastOwnText(),
});

const typingLine = new TypingLine($('typing'));
const people = new People($('people'), $('people-rest'), [$('people-count'), $('count')]);
const alerts = new Alerts($('icon'), $('notify'), $('notify-hint'), $('announce'), room, browser);
showRooms($('rooms'), $('go'), $('go-room'), $('go-problem'), room, browser);

// --- what the server tells

function welcome({ name, names, participants, messages: latest, more, gap }, resumed) {
	timeline.me = typingLine.me = $('my-name').textContent = name;
	for (const store of [browser, tab]) store.set('name', name);
	tab.set('passphrase', connection.passphrase);
	for (const dialog of [$('join'), $('away')]) answered(dialog);
	typingLine.clear();
	people.reset(name, names, participants);
	if (gap) timeline.append({ kind: 'gap' });
	if (!resumed) timeline.open(latest, more, browser.get(`read.${room}`));
}

/** `news`: not the history that a first welcome brings. */
function messages(list, news) {
	for (const { name } of list) typingLine.set(name, false);
	if (!news) return;
	timeline.add(list);
	alerts.came(list.filter(({ name }) => !same(name, connection.name)), connection.name);
}

const LEFT_AFTER = 2500; // told after a moment, so that a reload or a short cut shows nothing at all
const leaving = new Map(); // name → timer

function presence(frame) {
	people.change(frame);
	for (const name of frame.left) {
		typingLine.set(name, false);
		leaving.set(name, setTimeout(() => leaving.delete(name) && timeline.notice([], [name]), LEFT_AFTER));
	}
	const joined = frame.joined.filter((name) => {
		clearTimeout(leaving.get(name));
		return !leaving.delete(name);
	});
	if (joined.length) timeline.notice(joined, []);
}

// --- the connection, in words for people

let statusTimer;

function showState() {
	const { state, reason } = connection;
	document.body.dataset.state = state;
	if (state === 'refused') askWho(reason);
	if (state === 'elsewhere' || state === 'stopped') askBack(...AWAY[reason || state]);
	const [line] = $('status').children;
	const words = statusWords(connection);
	clearTimeout(statusTimer);
	// Short cuts do not flash.
	statusTimer = setTimeout(() => {
		line.hidden = !words;
		line.firstElementChild.textContent = words;
		line.lastElementChild.hidden = state !== 'waiting';
	}, words && line.hidden ? 700 : 0);
}

function statusWords({ trying, state, offline, restarting, backplane }) {
	if (!trying) return '';
	if (offline) return 'You are offline. What you write waits here and goes out when you are back.';
	if (backplane === 'down') return 'The server cannot reach its store. What you write waits here until it can.';
	if (state === 'joined') return '';
	if (restarting) return 'The server is restarting. Back in a moment.';
	return timeline.me ? 'The connection was lost. Reconnecting…' : 'Connecting…';
}

listen($('status'), 'click', ({ target }) => target.matches('button') && connection.wake());

// --- two questions: who are you, and do you want to be here

const REFUSED = {
	name_invalid: 'A name has 1 to 32 characters and nothing invisible.',
	name_taken: 'Somebody with this name is here. Choose another.',
	unauthorized: 'That is not the passphrase.',
	locked: 'The passphrase was wrong too often. Wait a moment, then try again.',
	tab: 'You are here in another tab. Joining moves you to this one; under another name, you are two.',
};

const AWAY = {
	elsewhere: ['You are here in another tab', 'You went on there, so this tab has stepped aside.', 'Use this tab'],
	policy: ['Disconnected', 'This page sent too much that the server could not accept.', 'Connect again'],
	locked: ['Disconnected', 'The passphrase was wrong too often.', 'Connect again'],
};

function askWho(reason = '') {
	const [name, passphrase] = [$('name'), $('passphrase')];
	if (!$('join').open) {
		name.value = connection.name ?? browser.get('name') ?? '';
		$('join').showModal();
	}
	const secret = reason === 'unauthorized' || reason === 'locked';
	if (secret) passphrase.parentElement.hidden = false;
	$('join-problem').textContent = secret && !connection.passphrase ? 'This chat asks for a passphrase.' : REFUSED[reason] ?? reason;
	(secret ? passphrase : name).select();
}

function askBack(title, text, label) {
	$('away-title').textContent = title;
	$('away-text').textContent = text;
	$('come-back').textContent = label;
	if (!$('away').open) $('away').showModal();
}

function onAnswer(dialog, act) {
	onSubmit(dialog, act);
	// Escape is no answer.
	listen(dialog, 'cancel', (event) => event.preventDefault());
	listen(dialog, 'close', () => connection.trying || dialog.showModal());
}

function answered(dialog) {
	if (!dialog.open) return;
	dialog.close();
	$('text').focus();
}

onAnswer($('join'), () => {
	const name = $('name').value.trim();
	if (name) connection.join(name, $('passphrase').value || undefined);
	else askWho('name_invalid');
});
onAnswer($('away'), () => {
	answered($('away'));
	connection.join(connection.name, connection.passphrase);
});

listen($('rename'), 'click', () => {
	$('sidebar').hidePopover();
	connection.leave();
	askWho();
});

listen($('invite'), 'click', async ({ target }) => {
	const link = `${location.origin}/r/${room}`;
	try {
		await navigator.clipboard.writeText(link);
		target.textContent = 'Link copied';
		setTimeout(() => (target.textContent = 'Invite'), 3000);
	} catch {
		prompt('The link to this room:', link); // no clipboard on plain http
	}
});

// --- other tabs of this browser

// A second tab under the same name takes the first one's place. Fine if that is meant, so it is asked.
const tabs = new BroadcastChannel('bobbin');

listen(tabs, 'message', ({ data }) => {
	if (data.asked === room && connection.state === 'joined' && same(connection.name, data.name)) tabs.postMessage({ here: room });
});

const isInAnotherTab = (name) =>
	new Promise((resolve) => {
		listen(tabs, 'message', ({ data }) => data.here === room && resolve(true));
		tabs.postMessage({ asked: room, name });
		setTimeout(resolve, 150, false);
	});

// --- and go

$('room-name').textContent = $('join-room').textContent = room;
composer.restore(browser.get(`draft.${room}`) ?? '');
connection.restore(tab.get(`outbox.${room}`) ?? []);
const name = tab.get('name') ?? browser.get('name');
if (!name) askWho();
else if (await isInAnotherTab(name)) askWho('tab');
else {
	connection.join(name, tab.get('passphrase'));
	$('text').focus();
}
