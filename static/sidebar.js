// Beside the conversation: the rooms visited before, and who is here. On a small screen it is a popover.

import { ROOM, element, onSubmit, pathOf } from './base.js';
import { nameIndex, picture, tint } from './text.js';

const ROOMS_MOST = 12;
const PEOPLE_MOST = 100; // rows; the rest is a number
const REDRAW_AFTER = 100;

const collator = new Intl.Collator();

/** Lists the rooms visited, and takes one to any of them or to another. */
export class Rooms {
	/** `go(room)`: goes there without leaving the page. */
	constructor({ list, form, input, problem }, store, go) {
		Object.assign(this, { list, store });
		onSubmit(form, () => {
			// A link that somebody sent, "#Room" and "my room" are understood too.
			const name = input.value.trim().replace(/^.*\/r\/|^#/, '').replace(/\/$/, '').toLowerCase().replace(/\s+/g, '-');
			problem.hidden = ROOM.test(name);
			input.ariaInvalid = String(!problem.hidden);
			if (!problem.hidden) return;
			input.value = '';
			go(name);
		});
	}

	/** The person is in this room now. */
	enter(room) {
		const before = this.store.get('rooms', []).filter((name) => ROOM.test(name));
		const visited = new Set([room, ...before].slice(0, ROOMS_MOST));
		this.store.set('rooms', [...visited]);
		const links = [...visited.add('lobby')].sort().map((name) => {
			const link = element('a', 'room', name);
			link.href = pathOf(name);
			link.dataset.room = name;
			if (name === room) link.setAttribute('aria-current', 'page');
			return element('li', '', link);
		});
		this.list.replaceChildren(...links);
	}
}

/** Who is here. The server names at most 100; the count is the truth. */
export class People {
	#names = new Set();
	#index;
	#count = 0;
	#timer;

	/** `counts`: where the number is shown. */
	constructor(list, rest, counts) {
		Object.assign(this, { list, rest, counts });
	}

	/** The names, as mentions are looked up. */
	get index() {
		return (this.#index ??= nameIndex(this.#names));
	}

	has(name) {
		return this.#names.has(name);
	}

	reset(me, names, count) {
		this.me = me;
		this.#names = new Set(me ? [me] : []);
		this.change({ left: [], joined: names, participants: count });
	}

	change({ joined, left, participants }) {
		for (const name of left) if (name !== this.me) this.#names.delete(name);
		for (const name of joined) this.#names.add(name);
		this.#index = null;
		this.#count = participants;
		for (const node of this.counts) node.textContent = participants.toLocaleString('en');
		this.#timer ??= setTimeout(() => this.#draw(), REDRAW_AFTER);
	}

	#draw() {
		this.#timer = null;
		const others = [...this.#names].filter((name) => name !== this.me).sort(collator.compare);
		// Oneself is always among those shown.
		const shown = [...others.slice(0, PEOPLE_MOST - 1), ...(this.me ? [this.me] : [])].sort(collator.compare);
		this.list.replaceChildren(...shown.map((name) => this.#person(name)));
		const more = this.#count - shown.length;
		this.rest.textContent = more > 0 ? `and ${more.toLocaleString('en')} more` : '';
	}

	#person(name) {
		const you = name === this.me ? element('span', 'quiet', 'you') : '';
		return tint(element('li', 'person', picture(name), element('bdi', '', name), you), name);
	}
}
