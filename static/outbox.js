// This browser's outbox: all unsent messages, of any room and tab, until their receipts. Each message has its own key
// in the browser's storage, so it survives its tab, and tabs never overwrite each other's messages. Any page connected to the
// message's room sends it; if two pages do, `ref` makes it appear only once.

import { ROOM, button, count, element, isolated, listen, pathOf, randomKey } from './base.js';
import { Connection } from './connection.js';

const KEY = 'out.';
const START_AFTER = 700; // the person may return to the room at once
const AGAIN_AFTER = 20_000; // delay before a room that could not be entered is tried again
const SHOW_AFTER = 1500; // messages sent sooner are not listed
const FRESH = { state: 'waiting', tries: 0, notBefore: 0 };
const isKept = ({ room, name, text, at } = {}) =>
	ROOM.test(room) && typeof name === 'string' && typeof text === 'string' && text !== '' && Number.isFinite(at);

export class Outbox {
	/** Oldest first: { ref, room, name, text, at, reason?: why it was finally refused } and, not stored, { state: waiting
	 * | sending | failed, delay?: why it waits, tries, notBefore }. */
	items = [];
	#watchers = [];
	#unsafe = new Set(); // refs that could not be stored: they are lost with the page

	constructor(store) {
		this.store = store;
		for (const key of store.keys(KEY)) this.#load(key);
		store.watch((key) => {
			if (!key.startsWith(KEY)) return;
			this.#load(key);
			this.changed();
		});
		addEventListener('beforeunload', (event) => this.#unsafe.size && event.preventDefault());
	}

	/** `act` is called after every change. */
	watch(act) {
		this.#watchers.push(act);
	}

	changed() {
		for (const act of this.#watchers) act();
	}

	get(ref) {
		return this.items.find((item) => item.ref === ref);
	}

	/** This person's messages in this room. */
	of(room, name) {
		return this.items.filter((item) => item.room === room && item.name === name);
	}

	add(room, name, text) {
		// Each is later than the last, because `at` orders them.
		const at = Math.max(Date.now(), (this.items.at(-1)?.at ?? 0) + 1);
		this.#keep({ ref: randomKey(), room, name, text, at, ...FRESH });
		this.changed();
	}

	/** Marks a message as finally refused; it waits for the person's decision. */
	fail(item, reason) {
		this.#keep({ ...item, reason, state: 'failed' });
		this.changed();
	}

	retry(ref) {
		const { reason, ...item } = this.get(ref);
		this.#keep({ ...item, ...FRESH });
		this.changed();
	}

	/** Removes messages that have a receipt or were discarded. */
	remove(...refs) {
		if (!refs.some((ref) => this.get(ref))) return;
		for (const ref of refs) {
			this.store.set(KEY + ref, undefined);
			this.#unsafe.delete(ref);
		}
		this.items = this.items.filter(({ ref }) => !refs.includes(ref));
		this.changed();
	}

	/** The person has changed names in this room: the waiting messages are sent under the new name. */
	rename(room, from, to) {
		if (from !== to) for (const item of this.of(room, from)) this.#keep({ ...item, name: to });
	}

	/** The unsent messages by room and name. */
	groups() {
		return Map.groupBy(this.items, ({ room, name }) => `${room} ${name}`).values();
	}

	#keep(item) {
		const { ref, room, name, text, at, reason } = item;
		if (this.store.set(KEY + ref, { room, name, text, at, reason })) this.#unsafe.delete(ref);
		else this.#unsafe.add(ref);
		this.#put(item);
	}

	/** Applies a change made by another tab. */
	#load(key) {
		const kept = this.store.get(key, {});
		const ref = key.slice(KEY.length);
		const now = this.get(ref);
		if (isKept(kept)) this.#put({ ...FRESH, ...now, ...kept, ref, state: kept.reason ? 'failed' : now?.state ?? 'waiting' });
		else this.items = this.items.filter((item) => item !== now);
	}

	#put(item) {
		this.items = this.items.filter(({ ref }) => ref !== item.ref);
		this.items.push(item);
		this.items.sort((a, b) => a.at - b.at);
	}
}

/** Sends messages that wait for other rooms, over one connection per room, one at a time. */
export class Courier {
	#connection = null;
	#notBefore = new Map(); // room and name → when to retry
	#timer;

	/** `on`: isCurrent(room, name) · isInAnotherTab(room, name) · passphrase() · isUp(): is the server reachable */
	constructor(client, outbox, on) {
		Object.assign(this, { client, outbox, on });
		outbox.watch(() => this.start());
		setInterval(() => this.start(), 5000);
	}

	start() {
		const own = this.#connection;
		if (own && !this.#waiting(own.room, own.name)) this.#end();
		this.#timer ??= setTimeout(async () => {
			await this.#next();
			this.#timer = null;
		}, START_AFTER);
	}

	#waiting(room, name) {
		return this.outbox.of(room, name).some(({ state }) => state !== 'failed');
	}

	#end(wait = 0) {
		const own = this.#connection;
		this.#connection = null;
		if (wait) this.#notBefore.set(`${own.room} ${own.name}`, Date.now() + wait);
		own.leave();
	}

	async #next() {
		for (const [{ room, name }] of this.outbox.groups()) {
			if (this.#connection || !this.on.isUp()) return;
			const isDue = !(this.#notBefore.get(`${room} ${name}`) > Date.now());
			if (!isDue || !this.#waiting(room, name) || this.on.isCurrent(room, name)) continue;
			if (!(await this.on.isInAnotherTab(room, name, true)) && !this.#connection) this.#enter(room, name);
		}
	}

	#enter(room, name) {
		const none = () => {};
		const state = () => {
			const isOver = ['refused', 'elsewhere', 'stopped', 'waiting'].includes(this.#connection?.state);
			if (isOver || this.on.isCurrent(room, name)) setTimeout(() => this.#connection?.room === room && this.#end(AGAIN_AFTER));
		};
		const handlers = { state, welcome: none, messages: none, presence: none, typing: none, removed: none };
		this.#connection = new Connection(room, this.client, this.outbox, handlers);
		this.#connection.join(name, this.on.passphrase());
	}
}

/** Lists the messages that wait for other rooms. `on`: isCurrent(room, name). */
export class WaitingList {
	#timer;

	constructor(list, outbox, on) {
		Object.assign(this, { list, outbox, on });
		outbox.watch(() => this.draw());
		listen(list, 'click', ({ target }) => target.dataset.discard && this.#discard(target.dataset.discard.split(' ')));
		this.draw();
	}

	draw() {
		const isShown = this.list.childElementCount > 0;
		this.#timer ??= setTimeout(() => {
			this.#timer = null;
			this.list.replaceChildren(...[...this.#groups()].map((items) => this.#line(items)));
		}, isShown ? 100 : SHOW_AFTER);
	}

	#groups() {
		return [...this.outbox.groups()].filter(([{ room, name }]) => !this.on.isCurrent(room, name));
	}

	#line(items) {
		const [{ room, name, reason }] = items;
		const words = `${count(items.length, 'message')} of ${isolated(name)} for #${room} ${items.length > 1 ? 'wait' : 'waits'}${reason ? `: ${reason}` : ''}`;
		const go = element('a', 'link', 'Go there');
		go.href = pathOf(room);
		go.dataset.room = room;
		return element('li', '', `${words} `, go, button('link', 'Discard', { discard: items.map(({ ref }) => ref).join(' ') }));
	}

	#discard(refs) {
		if (confirm(`Discard ${count(refs.length, 'message')} that nobody has received?`)) this.outbox.remove(...refs);
	}
}
