// Brings what waits in the outbox for other rooms than the one on the screen: a connection for each, one at a time, for the
// time it takes. And it says what waits, and where.

import { button, count, element, listen, pathOf } from './base.js';
import { Connection } from './connection.js';
import { isolated } from './text.js';

const START_AFTER = 700; // the person may be back at once
const AGAIN_AFTER = 20_000; // after a room could not be entered
const SHOW_AFTER = 1500; // what is brought at once is not worth a word

export class Courier {
	#connection = null;
	#notBefore = new Map(); // room and name → when to try again
	#timer;

	/** `on`: isCurrent(room, name) · isInAnotherTab(room, name) · passphrase() · isUp(): whether the server can be reached */
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
		const { room, name } = this.#connection;
		if (wait) this.#notBefore.set(`${room} ${name}`, Date.now() + wait);
		this.#connection.leave();
		this.#connection = null;
	}

	async #next() {
		for (const [{ room, name }] of this.outbox.groups()) {
			if (this.#connection || !this.on.isUp()) return;
			const isDue = !(this.#notBefore.get(`${room} ${name}`) > Date.now());
			if (!isDue || !this.#waiting(room, name) || this.on.isCurrent(room, name)) continue;
			if (!(await this.on.isInAnotherTab(room, name)) && !this.#connection) this.#enter(room, name);
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

/** The list of what waits elsewhere. `on`: isCurrent(room, name). */
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
		const words = `${count(items.length, 'message')} of ${isolated(name || 'yours')} for #${room} ${items.length > 1 ? 'wait' : 'waits'}${reason ? `: ${reason}` : ''}`;
		const go = element('a', 'link', 'Go there');
		go.href = pathOf(room);
		go.dataset.room = room;
		return element('li', '', `${words} `, go, button('link', 'Discard', { discard: items.map(({ ref }) => ref).join(' ') }));
	}

	#discard(refs) {
		if (confirm(`Discard ${count(refs.length, 'message')} that nobody has received?`)) this.outbox.remove(...refs);
	}
}
