// The sidebar: the visited rooms, and the people in this one. On a small screen it is a popover.

import { ROOM, element, onSubmit, pathOf } from './base.js';
import { nameIndex, picture, tint } from './text.js';

const ROOMS_MOST = 12;
const PEOPLE_MOST = 100; // rows; the rest is shown as a number
const REDRAW_AFTER = 100;

const collator = new Intl.Collator();

/** Lists the visited rooms, and switches to any of them or to another. */
export class Rooms {
	/** `go(room)`: enters it without leaving the page. */
	constructor({ list, form, input, problem }, store, go) {
		Object.assign(this, { list, store });
		onSubmit(form, () => {
			// Also accepts a link, "#Room" and "my room".
			const name = input.value.trim().replace(/^.*\/r\/|^#/, '').replace(/\/$/, '').toLowerCase().replace(/\s+/g, '-');
			problem.hidden = ROOM.test(name);
			input.ariaInvalid = String(!problem.hidden);
			if (!problem.hidden) return;
			input.value = '';
			go(name);
		});
	}

	/** Lists the visited rooms, this one marked as current. */
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

/** Who is here. The server lists at most 100 names; the count is exact. */
export class People {
	#names = new Set();
	#index;
	#count = 0;
	#timer;

	/** `counts`: the elements that show the number. */
	constructor(list, rest, counts) {
		Object.assign(this, { list, rest, counts });
	}

	/** The names, indexed for mentions. */
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
		// The person is always among those shown.
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
