// The page's entry point: the person's name, the room, and the connection's state in words. It shows the join form first.

import { $, BASE, Store, listen, pathOf, randomKey, roomAt } from './base.js';
import { Connection } from './connection.js';
import { Outbox } from './outbox.js';
import { Questions } from './questions.js';

const browser = new Store('localStorage'); // shared by all tabs of this browser
const tab = new Store('sessionStorage'); // of this tab only; survives a reload
const outbox = new Outbox(browser);

// The secret by which the server recognizes a returning client. It belongs to the browser rather than the tab, so that
// another tab can take the seat over.
const kept = browser.get('client', '');
const client = /^[A-Za-z0-9_-]{16,64}$/.test(kept) ? kept : randomKey();
browser.set('client', client);

let room = roomAt(location.pathname);
let chat; // the parts of the page, once loaded
let connection; // to the room on screen
let renaming; // a second connection, under the requested name

const questions = new Questions({ join, comeBack });

// The name to join with; empty if a login proxy names the users.
const ownName = () => (questions.usesName ? tab.get('name', '') || browser.get('name', '') : '');
const passphrase = () => browser.get('passphrase', '') || undefined;

// --- entering a room

/** Shows a room and joins it, or asks for a name first. */
async function enter() {
	connection = connect();
	chat.enter(room);
	chat.connection = connection;
	const name = ownName();
	const own = connection;
	if (!name && questions.usesName) return ask();
	Object.assign(own, { name });
	if (name && (await isInAnotherTab(room, name))) return own === connection && ask('tab');
	if (own !== connection) return undefined;
	ready();
	return own.join(name, passphrase());
}

function go(to, isBack = false) {
	if (to === room) return;
	renaming?.leave();
	renaming = null;
	connection?.leave();
	questions.close();
	room = to;
	if (!isBack) history.pushState(null, '', pathOf(to));
	enter();
}

listen(window, 'popstate', () => go(roomAt(location.pathname), true));

/** A connection whose frames reach the page while it is the current one. */
function connect(since) {
	const own = new Connection(room, client, outbox, {
		state: () => own === connection && showState(),
		welcome: (frame, resumed) => welcome(own, frame, resumed),
		messages: (list, news) => own === connection && chat.messages(list, news),
		presence: (frame) => own === connection && chat.presence(frame),
		typing: (frame) => own === connection && chat.typing(frame),
		removed: (frame) => own === connection && chat.removed(frame),
	}, since);
	return own;
}

function welcome(own, frame, resumed) {
	const formerName = connection.name;
	if (own === renaming) {
		outbox.rename(room, formerName, frame.name);
		connection.leave();
		[connection, renaming] = [own, null];
		chat.connection = own;
		showState();
	}
	if (own !== connection) return;
	if (questions.usesName) for (const store of [browser, tab]) store.set('name', frame.name);
	if (own.passphrase) browser.set('passphrase', own.passphrase);
	ready();
	if (questions.close()) $('text').focus();
	chat.welcome(frame, resumed, formerName);
}

/** From now on the person may write; messages written before the connection is up wait in the outbox. */
function ready() {
	$('main').inert = false;
	$('sidebar').inert = false;
	$('text').focus();
}

// --- the person's name

function ask(reason) {
	const { name, passphrase: tried } = connection ?? {};
	questions.askWho(room, reason, { name: name || ownName(), passphrase: tried ?? passphrase() });
}

async function join(name, secret) {
	await parts;
	if ($('join-cancel').hidden) return connection.join(name, secret);
	if (name === connection.name) return questions.close();
	// The seat under the current name is kept until the new one is granted.
	renaming?.leave();
	const own = (renaming = connect(connection.cursor));
	own.handlers.state = () => own === renaming && showRenaming();
	return own.join(name, secret ?? passphrase());
}

function rename() {
	$('sidebar').hidePopover();
	questions.askWho(room, '', { name: connection.name }, stopRenaming);
}

function stopRenaming() {
	renaming?.leave();
	renaming = null;
	$('text').focus();
}

function showRenaming() {
	const { state, reason, trouble, name } = renaming;
	if (state === 'refused') questions.askWho(room, reason, { name }, stopRenaming);
	else if (state === 'stopped') questions.problem('That is not possible now. Try again in a moment.');
	else questions.problem(troubleWords(trouble, state));
}

listen($('rename'), 'click', rename);
$('rename').hidden = !questions.usesName;

function comeBack() {
	if (!chat) return location.reload();
	$('text').focus();
	return connection.join(connection.name, connection.passphrase);
}

// --- the state of the connection, in words

let statusTimer;

function showState() {
	const { state, reason, trouble } = connection;
	document.body.dataset.state = state;
	if (state === 'refused') ask(reason);
	else if (questions.isAsking && connection.trying && !renaming) questions.problem(troubleWords(trouble, state));
	if ((state === 'elsewhere' && !renaming) || state === 'stopped') questions.askBack(reason || state);
	const [line] = $('status').children;
	const words = statusWords(connection);
	clearTimeout(statusTimer);
	// Short interruptions are not shown.
	statusTimer = setTimeout(() => {
		line.hidden = !words;
		line.firstElementChild.textContent = words;
		line.lastElementChild.hidden = state !== 'waiting';
	}, words && line.hidden ? 700 : 0);
}

const troubleWords = (trouble, state) => (trouble && state !== 'joined' ? `${trouble} Retrying automatically…` : '');

function statusWords({ trying, state, offline, restarting, backplane, trouble, by }) {
	if (!trying) return '';
	if (offline) return 'You are offline. Your messages wait here and are sent when you are back.';
	if (backplane === 'down') return 'The server cannot reach its storage. Your messages wait here until it can.';
	if (state === 'joined') return '';
	if (restarting) return 'The server is restarting. Back in a moment.';
	if (!by) return trouble ? troubleWords(trouble, state) : 'Connecting…';
	return `The connection was lost. ${trouble} Reconnecting…`.replace('  ', ' ');
}

listen($('status'), 'click', ({ target }) => target.matches('button') && connection.wake());

// --- other tabs of this browser

// A second tab under the same name takes the first one's seat. The person may not want that, so the page asks.
const tabs = new BroadcastChannel(`bobbin ${BASE}`);

listen(tabs, 'message', ({ data }) => {
	// A courier must not take the seat of a page that is reconnecting.
	const isHere = data.courier ? connection?.trying : connection?.state === 'joined';
	if (data.asked && isHere && data.room === room && data.name === connection.name) tabs.postMessage({ answered: data.asked });
});

const isInAnotherTab = (inRoom, name, courier) =>
	new Promise((resolve) => {
		const asked = randomKey();
		const answered = new AbortController();
		const done = (is) => {
			answered.abort();
			resolve(is);
		};
		listen(tabs, 'message', ({ data }) => data.answered === asked && done(true), { signal: answered.signal });
		tabs.postMessage({ asked, room: inRoom, name, courier });
		setTimeout(done, 150, false);
	});

// --- start

if (questions.usesName && !ownName()) ask();
const parts = import('./chat.js').then(({ Chat }) => {
	chat = new Chat({ client, outbox, browser, tab, go, isInAnotherTab, passphrase });
	return enter();
});
parts.catch((error) => {
	console.error(error);
	questions.close();
	questions.askBack('broken');
});
