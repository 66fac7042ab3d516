// Beside the conversation: the rooms visited before, and who is here. (On a small screen this is a popover, and takes
// no script.)

import { button, element, fold, listen, onSubmit, picture, same, tint } from './text.js';

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

	/** `on`: chosen(name) · counted(count) */
	constructor(list, rest, on) {
		Object.assign(this, { list, rest, on });
		listen(list, 'click', ({ target }) => {
			const name = target.closest('button')?.dataset.name;
			if (name) on.chosen(name);
		});
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
		this.on.counted(count);
	}

	#person(name) {
		const person = tint(button('person', picture(name), { name }), name);
		person.append(element('bdi', '', name));
		if (same(name, this.me)) person.append(element('span', 'quiet', 'you'));
		else person.title = `Mention ${name}`;
		return element('li', '', person);
	}
}
