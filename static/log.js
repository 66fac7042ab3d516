// The loaded messages of a room, in one array sorted by id, with the notices between them. Independent of the screen.

import { compareIds } from './base.js';
import { dayOf, noticeWords } from './rows.js';

export class Log {
	/** Messages, notices and gaps. An item that is not a message has a label instead of text, and the id of the message
	   before it. */
	items = [];
	#keys = 0;

	/** Inserts a message; returns its index, or -1 if it is already there. */
	insert(message) {
		let [low, at] = [0, this.items.length];
		while (low < at) {
			const middle = (low + at) >> 1;
			if (compareIds(this.items[middle].id, message.id) > 0) at = middle;
			else low = middle + 1;
		}
		for (let i = at - 1; this.items[i]?.id === message.id; i--) if (this.items[i].text) return -1;
		this.items.splice(at, 0, { ...message, key: message.id, day: dayOf(message.at) });
		return at;
	}

	/** Appends a line that is not a message: { kind, label }. */
	append(item) {
		this.items.push({ ...item, id: this.items.at(-1)?.id ?? '0-0', key: `k${this.#keys++}` });
		return this.items.at(-1);
	}

	/** Adds who joined and left. Adjacent notices are merged, without those who both joined and left. */
	notice(joined, left) {
		let last = this.items.at(-1);
		if (last?.kind !== 'notice') last = this.append({ kind: 'notice', joined: new Set(), left: new Set() });
		for (const name of joined) if (!last.left.delete(name)) last.joined.add(name);
		for (const name of left) if (!last.joined.delete(name)) last.left.add(name);
		last.label = noticeWords(last);
		if (!last.label) this.items.pop();
	}

	/** Removes messages by id, and all up to an id. */
	remove({ ids = [], upto }) {
		const gone = new Set(ids);
		this.items = this.items.filter(({ text, id }) => !text || !(gone.has(id) || (upto && compareIds(id, upto) <= 0)));
	}

	/** Keeps the newest `most` items; returns whether any were dropped. */
	trim(most) {
		if (this.items.length <= most) return false;
		this.items.splice(0, this.items.length - most);
		return true;
	}

	get hasMessages() {
		return this.items.some(({ text }) => text);
	}

	get first() {
		return this.items.find(({ text }) => text);
	}

	get newestId() {
		return this.items.at(-1)?.id ?? null;
	}

	messageBefore(at) {
		while (--at >= 0) if (this.items[at].text) return this.items[at];
		return undefined;
	}

	find(id) {
		return this.items.find((item) => item.text && item.id === id);
	}

	asText() {
		const stamp = (at) => new Date(at - new Date(at).getTimezoneOffset() * 60_000).toISOString().slice(0, 16).replace('T', ' ');
		return this.items.map(({ text, at, name, label }) => (text ? `[${stamp(at)}] ${name}: ${text}\n` : `--- ${label}\n`)).join('');
	}
}
