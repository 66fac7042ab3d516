// The parts of the page, and the data each receives. app.js loads this once the join form is on screen.

import { MessageActions, roomActions } from './actions.js';
import { Alerts } from './alerts.js';
import { $, listen } from './base.js';
import { Composer, TypingLine } from './composer.js';
import { Courier, WaitingList } from './outbox.js';
import { People, Rooms } from './sidebar.js';
import { Timeline } from './timeline.js';

const READ_AFTER = 500;
const LEFT_AFTER = 2500; // delay of "left", so that a reload or a short interruption is not shown

export class Chat {
	#room = '';
	#connection = { name: '', by: '' };
	#leaving = new Map(); // name → timer
	#read = null; // the last id read, not yet stored
	#formerNames = new Set(); // of this person: giving one up is not announced

	/** `app`: client, outbox, browser and tab (stores), go(room), isInAnotherTab(room, name), passphrase(). */
	constructor(app) {
		this.app = app;
		const { outbox, browser } = app;
		const isCurrent = (room, name) => room === this.#room && name === this.#connection.name;
		this.timeline = new Timeline($('scroller'), $('list'), $('jump'), {
			loadOlder: (before) => this.#connection.history(before),
			read: (id) => this.#keepRead(id),
			unread: (number, andMore) => this.alerts.unread(number, andMore),
			everybody: () => this.people.index,
		});
		this.composer = new Composer({ form: $('composer'), box: $('text'), counter: $('counter'), send: $('send'), hint: $('hint') }, {
			send: (text) => {
				this.#connection.say(text);
				this.timeline.spoke();
			},
			typing: (active) => this.#connection.typing(active),
			draft: (text) => app.tab.set(`draft.${this.#room}`, text),
			recall: () => this.timeline.lastOwnText(),
		});
		this.typingLine = new TypingLine($('typing'));
		this.people = new People($('people'), $('people-rest'), [$('people-count'), $('count')]);
		this.alerts = new Alerts({ icon: $('icon'), choice: $('notify'), hint: $('notify-hint'), log: $('announce') }, browser);
		this.rooms = new Rooms({ list: $('rooms'), form: $('go'), input: $('go-room'), problem: $('go-problem') }, browser, app.go);
		roomActions({ invite: $('invite'), newRoom: $('new-room'), save: $('save') }, { room: () => this.#room, go: app.go, text: () => this.timeline.asText() });
		new MessageActions($('scroller'), $('list'), {
			message: (row) => this.timeline.messageOf(row),
			reply: (text) => this.composer.prepend(text),
			retry: (ref) => outbox.retry(ref),
			discard: (ref) => outbox.remove(ref),
			box: $('text'),
		});
		this.courier = new Courier(app.client, outbox, { ...app, isCurrent, isUp: () => !['waiting', 'connecting'].includes(this.#connection.state) });
		this.waiting = new WaitingList($('waiting'), outbox, { isCurrent });
		outbox.watch(() => {
			this.#showPending();
			if (this.#connection.state === 'joined') this.#connection.pump();
		});
		listen(window, 'pagehide', () => {
			this.#keepDraft();
			this.#writeRead();
		});
		listen(document, 'click', (event) => this.#followRoom(event));
	}

	/** Enters a room, and clears everything of the previous one. */
	enter(room) {
		this.#keepDraft();
		this.#writeRead();
		this.#room = room;
		for (const timer of this.#leaving.values()) clearTimeout(timer);
		this.#leaving.clear();
		$('room-name').textContent = room;
		this.timeline.reset();
		this.typingLine.clear();
		this.people.reset('', [], 0);
		this.alerts.enter(room);
		this.rooms.enter(room);
		this.#restoreDraft();
		$('sidebar').hidePopover();
	}

	/** Replaces the connection that the page receives from and sends to. */
	set connection(connection) {
		this.#connection = connection;
		this.#showPending();
		this.waiting.draw();
	}

	#showPending() {
		const { room, name } = this.#connection;
		this.timeline.pending = room ? this.app.outbox.of(room, name) : [];
	}

	// --- from the server

	welcome({ name, by, names, participants, messages, more, gap, last }, resumed, formerName) {
		if (formerName && formerName !== name) this.#formerNames.add(formerName);
		this.timeline.me = { name, by };
		this.typingLine.me = $('my-name').textContent = name;
		this.typingLine.clear();
		this.people.reset(name, names, participants);
		// The log keeps the newest messages: if the last one seen is gone, so is everything before it.
		if (gap) this.timeline.append({ kind: 'gap', label: gapWords(more, last, messages) });
		if (!resumed) this.timeline.open(messages, more, this.#lastRead());
		this.#showPending();
	}

	/** `news`: false for the history in a first welcome. */
	messages(list, news) {
		for (const { name } of list) this.typingLine.set(name, false);
		if (!news || !list.length) return;
		this.timeline.add(list);
		const { by, name } = this.#connection;
		this.alerts.announce(list.filter((message) => message.by !== by), name);
	}

	presence(frame) {
		// A server that restarted without its data announces everyone again, this person included.
		const came = frame.joined.filter((name) => name !== this.#connection.name && !this.people.has(name));
		this.people.change(frame);
		for (const name of frame.left) {
			this.typingLine.set(name, false);
			if (name === this.#connection.name || this.#formerNames.has(name)) continue;
			const told = setTimeout(() => this.#leaving.delete(name) && this.timeline.notice([], [name]), LEFT_AFTER);
			this.#leaving.set(name, told);
		}
		const joined = came.filter((name) => {
			clearTimeout(this.#leaving.get(name));
			return !this.#leaving.delete(name);
		});
		if (joined.length) this.timeline.notice(joined, []);
	}

	typing({ name, active }) {
		this.typingLine.set(name, active);
	}

	removed(frame) {
		this.timeline.remove(frame);
		this.alerts.takeBack();
	}

	// --- stored in the browser: the last message read, and drafts

	#lastRead() {
		const id = this.app.browser.get(`read.${this.#room}`, '');
		return /^\d+-\d+$/.test(id) ? id : null;
	}

	/** Written at limited intervals: storage is slow, and messages may arrive fast. */
	#keepRead(id) {
		if (!this.#read) setTimeout(() => this.#writeRead(), READ_AFTER);
		this.#read = id;
	}

	#writeRead() {
		if (this.#read) this.app.browser.set(`read.${this.#room}`, this.#read);
		this.#read = null;
	}

	/** Saves the draft outside the tab: if this tab is closed, the next one that enters the room restores it. */
	#keepDraft() {
		if (this.#room) this.app.browser.set(`draft.${this.#room}`, $('text').value || undefined);
	}

	#restoreDraft() {
		const { browser, tab } = this.app;
		const key = `draft.${this.#room}`;
		this.composer.restore(tab.get(key, '') || browser.get(key, ''));
		browser.set(key, undefined);
	}

	/** Follows a link to a room without leaving the page. */
	#followRoom(event) {
		const { room } = event.target.closest?.('a')?.dataset ?? {};
		if (!room || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
		event.preventDefault();
		this.app.go(room);
	}
}

function gapWords(more, last, messages) {
	if (last === '0-0') return 'The server has lost all messages: those above exist only on this page.';
	if (!more && messages.length < 500) return 'The server has lost its older messages: those above exist only on this page.';
	return 'Some messages from while you were away are no longer kept.';
}
