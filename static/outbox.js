// The one outbox of this browser: what was written, in whatever room and tab, until its receipt. Each message is a key of
// its own in the browser's storage, so it survives the tab, and tabs never overwrite each other's. Whichever page is
// connected to a message's room sends it; `ref` makes sure that two pages that do so say it only once.

import { ROOM, randomKey } from './base.js';

const KEY = 'out.';
const isKept = ({ room, name, text, at } = {}) =>
	ROOM.test(room) && typeof name === 'string' && typeof text === 'string' && text !== '' && Number.isFinite(at);

export class Outbox {
	/** Oldest first: { ref, room, name, text, at, reason?: why it was refused for good } and, not kept, { state: waiting |
	 * sending | failed, delay?: why it waits, tries, notBefore }. */
	items = [];
	#watchers = [];
	#unsafe = new Set(); // refs that storage did not take: they are lost with the page

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

	/** What this person wrote in this room. */
	of(room, name) {
		return this.items.filter((item) => item.room === room && item.name === name);
	}

	add(room, name, text) {
		// Each later than the last, for the order is that of `at`.
		const at = Math.max(Date.now(), (this.items.at(-1)?.at ?? 0) + 1);
		this.#keep({ ref: randomKey(), room, name, text, at, ...FRESH });
		this.changed();
	}

	/** It was refused for good, and waits for the person's decision. */
	fail(item, reason) {
		this.#keep({ ...item, reason, state: 'failed' });
		this.changed();
	}

	retry(ref) {
		const { reason, ...item } = this.get(ref);
		this.#keep({ ...item, ...FRESH });
		this.changed();
	}

	/** Removes messages: receipts came, or the person discards them. */
	remove(...refs) {
		if (!refs.some((ref) => this.get(ref))) return;
		for (const ref of refs) {
			this.store.set(KEY + ref, undefined);
			this.#unsafe.delete(ref);
		}
		this.items = this.items.filter(({ ref }) => !refs.includes(ref));
		this.changed();
	}

	/** The person goes by another name in this room now; what waits goes with them. */
	rename(room, from, to) {
		if (from !== to) for (const item of this.of(room, from)) this.#keep({ ...item, name: to });
	}

	/** What waits, as groups of one room and name. */
	groups() {
		return Map.groupBy(this.items, ({ room, name }) => `${room} ${name}`).values();
	}

	#keep(item) {
		const { ref, room, name, text, at, reason } = item;
		if (this.store.set(KEY + ref, { room, name, text, at, reason })) this.#unsafe.delete(ref);
		else this.#unsafe.add(ref);
		this.#put(item);
	}

	/** Takes over what another tab has written, changed or removed. */
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

const FRESH = { state: 'waiting', tries: 0, notBefore: 0 };
