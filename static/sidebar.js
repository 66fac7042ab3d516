// Beside the conversation: the rooms visited before, and who is here. On a small screen it is a popover.

import { element, fold, onSubmit, picture, same, tint } from './text.js';

const ROOMS_MOST = 12;
const ROOM = /^[a-z0-9][a-z0-9_-]{0,47}$/;

/** Lists the rooms visited, this one among them, and takes one to any other. */
export function showRooms(list, form, input, problem, room, store) {
	const visited = new Set([room, ...(store.get('rooms') ?? [])].slice(0, ROOMS_MOST));
	store.set('rooms', [...visited]);
	for (const name of [...visited.add('lobby')].sort()) {
		const link = element('a', 'room', name);
		link.href = name === 'lobby' ? '/' : `/r/${name}`;
		if (name === room) link.setAttribute('aria-current', 'page');
		list.append(element('li', '', link));
	}
	onSubmit(form, () => {
		// A link that somebody sent, "#Room" and "my room" are understood too.
		const name = input.value.trim().replace(/^.*\/r\/|^#/, '').toLowerCase().replace(/\s+/g, '-');
		problem.hidden = ROOM.test(name);
		input.ariaInvalid = String(!problem.hidden);
		if (problem.hidden) location.assign(`/r/${name}`);
	});
}

/** Who is here. The server names 100 at most; the count is the truth. */
export class People {
	#names = new Map(); // folded → shown

	/** `counts`: where the number is shown. */
	constructor(list, rest, counts) {
		Object.assign(this, { list, rest, counts });
	}

	get names() {
		return this.#names.values();
	}

	reset(me, names, count) {
		this.me = me;
		this.#names.clear();
		this.change({ left: [], joined: names, participants: count });
	}

	change({ joined, left, participants: count }) {
		for (const name of left) this.#names.delete(fold(name));
		for (const name of joined) this.#names.set(fold(name), name);
		const sorted = [...this.names].sort((a, b) => a.localeCompare(b));
		this.list.replaceChildren(...sorted.map((name) => this.#person(name)));
		this.rest.textContent = count > sorted.length ? `and ${count - sorted.length} more` : '';
		for (const node of this.counts) node.textContent = count;
	}

	#person(name) {
		const you = same(name, this.me) ? element('span', 'quiet', 'you') : '';
		return tint(element('li', 'person', picture(name), element('bdi', '', name), you), name);
	}
}
