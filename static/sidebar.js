// Beside the conversation: the rooms visited before, and who is here. On a small screen it is a drawer.

import { button, element, fold, picture, tint } from './text.js';

const ROOMS_MOST = 12;
const ROOM = /^[a-z0-9][a-z0-9_-]{0,47}$/;

/** Lists the rooms visited, this one among them, and takes one to any other. */
export function showRooms(list, form, input, problem, room, store) {
  const visited = [room, ...store.get('rooms', []).filter((name) => name !== room)].slice(0, ROOMS_MOST);
  store.set('rooms', visited);
  for (const name of [...new Set(['lobby', ...visited])].sort()) {
    const link = element('a', 'room', name);
    link.href = name === 'lobby' ? '/' : `/r/${name}`;
    if (name === room) link.setAttribute('aria-current', 'page');
    list.append(element('li', '', link));
  }
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    // A link that somebody sent, "#Room" and "my room" are understood too.
    const name = input.value.trim().replace(/^.*\/r\//, '').replace(/^#/, '').toLowerCase().replace(/\s+/g, '-');
    const fine = ROOM.test(name);
    problem.hidden = fine;
    input.ariaInvalid = String(!fine);
    if (fine) location.assign(`/r/${name}`);
  });
}

/** Who is here. The server names 100 at most; the count is the truth. */
export class People {
  #names = new Map(); // folded → shown

  /** `on`: chosen(name) · counted(count) */
  constructor(list, rest, on) {
    Object.assign(this, { list, rest, on });
    list.addEventListener('click', ({ target }) => {
      const name = target.closest('button')?.dataset.name;
      if (name) on.chosen(name);
    });
  }

  get names() {
    return this.#names.values();
  }

  reset(me, names, count) {
    this.me = fold(me);
    this.#names = new Map(names.map((name) => [fold(name), name]));
    this.#draw(count);
  }

  change({ joined, left, participants }) {
    for (const name of left) this.#names.delete(fold(name));
    for (const name of joined) this.#names.set(fold(name), name);
    this.#draw(participants);
  }

  #draw(count) {
    const sorted = [...this.#names.values()].sort((a, b) => a.localeCompare(b));
    this.list.replaceChildren(...sorted.map((name) => this.#person(name)));
    this.rest.textContent = count > sorted.length ? `and ${count - sorted.length} more` : '';
    this.on.counted(count);
  }

  #person(name) {
    const person = tint(button('person', picture(name), { name }), name);
    person.append(element('bdi', '', name));
    if (fold(name) === this.me) person.append(element('span', 'quiet', 'you'));
    else person.title = `Mention ${name}`;
    return element('li', '', person);
  }
}

/** The drawer of small screens. On large ones the sidebar is always there, and this does nothing. */
export class Drawer {
  #small = matchMedia('(max-width: 52rem)');

  constructor(sidebar, main, open, close, shade) {
    Object.assign(this, { sidebar, main, opener: open, closer: close });
    open.addEventListener('click', () => this.show(true));
    for (const node of [close, shade]) node.addEventListener('click', () => this.show(false));
    sidebar.addEventListener('keydown', ({ key }) => key === 'Escape' && this.show(false));
    this.#small.addEventListener('change', () => this.show(false));
    this.show(false);
  }

  show(wanted) {
    const { classList } = document.body;
    const [was, is] = [classList.contains('drawer'), wanted && this.#small.matches];
    classList.toggle('drawer', is);
    this.sidebar.inert = this.#small.matches && !is;
    this.main.inert = is;
    this.opener.ariaExpanded = String(is);
    if (is) this.closer.focus();
    else if (was) this.opener.focus();
  }
}
