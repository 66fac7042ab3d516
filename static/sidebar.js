// Beside the conversation: the rooms visited before, and who is here. On a small screen it is a drawer.

import { colour, element, fold, initial, nameElement } from './text.js';

const ROOMS_MOST = 12;
const ROOM = /^[a-z0-9][a-z0-9_-]{0,47}$/;

/** What a person types as a room's name, as the server spells it; null if it cannot be one. */
export function roomName(text) {
  const name = text.trim().replace(/^.*\/r\//, '').replace(/^#/, '').toLowerCase().replace(/\s+/g, '-');
  return ROOM.test(name) ? name : null;
}

/** The rooms visited, this one first. */
export class Rooms {
  constructor({ list, form, input, error }, room, store) {
    const visited = [room, ...store.get('rooms', []).filter((name) => name !== room && ROOM.test(name))].slice(0, ROOMS_MOST);
    store.set('rooms', visited);
    for (const name of [...new Set([...visited, 'lobby'])].sort()) list.append(roomItem(name, name === room));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const name = roomName(input.value);
      error.hidden = Boolean(name);
      input.setAttribute('aria-invalid', String(!name));
      if (name) location.assign(`/r/${name}`);
      else input.focus();
    });
  }
}

function roomItem(name, current) {
  const item = element('li');
  const link = element('a', 'room', name);
  link.href = name === 'lobby' ? '/' : `/r/${name}`;
  if (current) link.ariaCurrent = 'page';
  item.append(link);
  return item;
}

/** Who is here. The server names at most 100, and the count is the truth. */
export class People {
  count = 0;
  #names = new Map(); // folded → shown

  /** `on`: chosen(name) · counted(count) */
  constructor({ list, rest }, on) {
    Object.assign(this, { list, rest, on });
    list.addEventListener('click', ({ target }) => {
      const name = target.closest('button')?.dataset.name;
      if (name) on.chosen(name);
    });
  }

  get names() {
    return this.#names.values();
  }

  has(name) {
    return this.#names.has(fold(name));
  }

  reset(me, names, count) {
    this.me = me;
    this.#names = new Map(names.map((name) => [fold(name), name]));
    this.#draw(count);
  }

  change({ joined, left, participants }) {
    for (const name of left) this.#names.delete(fold(name));
    for (const name of joined) this.#names.set(fold(name), name);
    this.#draw(participants);
  }

  #draw(count) {
    this.count = count;
    const sorted = [...this.#names.values()].sort((a, b) => a.localeCompare(b));
    this.list.replaceChildren(...sorted.map((name) => personItem(name, fold(name) === fold(this.me))));
    const more = count - sorted.length;
    this.rest.hidden = more <= 0;
    this.rest.textContent = `and ${more} more`;
    this.on.counted(count);
  }
}

function personItem(name, me) {
  const item = element('li');
  const button = element('button', `person ${colour(name)}`);
  button.type = 'button';
  button.dataset.name = name;
  button.title = me ? 'This is you' : `Mention ${name}`;
  const picture = element('span', 'picture', initial(name));
  picture.ariaHidden = 'true';
  button.append(picture, nameElement(name));
  if (me) button.append(element('span', 'you', 'you'));
  item.append(button);
  return item;
}

/** The drawer of small screens. On large ones the sidebar is always there, and this does nothing. */
export class Drawer {
  constructor({ sidebar, main, open, close, shade }) {
    Object.assign(this, { sidebar, main, open, close });
    this.small = matchMedia('(max-width: 52rem)');
    open.addEventListener('click', () => this.show(true));
    close.addEventListener('click', () => this.show(false));
    shade.addEventListener('click', () => this.show(false));
    sidebar.addEventListener('keydown', ({ key }) => key === 'Escape' && this.show(false));
    this.small.addEventListener('change', () => this.show(false));
    this.show(false);
  }

  show(shown) {
    const small = this.small.matches;
    const was = document.body.classList.contains('drawer');
    document.body.classList.toggle('drawer', small && shown);
    this.sidebar.inert = small && !shown;
    this.main.inert = small && shown;
    this.open.ariaExpanded = String(small && shown);
    if (small && shown) this.close.focus();
    else if (was) this.open.focus();
  }
}
