// The conversation on the screen. All loaded messages are kept in one sorted array; the page holds rows for a window
// of them only, at most WINDOW at a time, and the window follows the reader: 5,000 messages cost the browser no more than 200.
//
// `draw` compares the rows that should be there with those that are, and changes only the difference; what the reader
// looks at keeps its place on the screen, whatever is added or taken away above it.

import { compareIds } from './connection.js';
import { colour, element, emojiOnly, fold, initial, mentions, nameElement, render } from './text.js';

const WINDOW = 200;
const STEP = 60; // rows by which the window moves
const NEAR = 800; // pixels from its end at which it moves
const KEEP = 10_000; // messages kept in memory; older ones can be fetched again
const GROUP_WITHIN = 5 * 60_000;
const LONG = { chars: 1800, lines: 24 };
const STICKY = 48;

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const fullDate = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'short' });
const dayName = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const dayWithYear = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });

function dayLabel(at) {
  const date = new Date(at);
  const today = new Date();
  const days = Math.round((new Date(today).setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days === 0) return 'Today';
  if (days === 1) return 'Yesterday';
  return (date.getFullYear() === today.getFullYear() ? dayName : dayWithYear).format(date);
}

const sameDay = (a, b) => new Date(a).toDateString() === new Date(b).toDateString();

export class Timeline {
  me = '';
  more = false; // the server has older ones
  unread = 0;

  #items = []; // { kind: message | notice | gap, key, at, … }, messages in the order of their ids
  #byId = new Map();
  #pending = [];
  #from = 0;
  #to = 0;
  #pinned = true; // the reader is at the end, and stays there as messages come
  #rows = new Map(); // key → row in the page
  #scheduled = false;
  #loading = false;
  #lineAfter = null; // the "new" line stands before the first message after this id
  #lastRead = null;
  #notices = 0;

  /** `on`: loadOlder(beforeId) → {messages, more} · retry(ref) · discard(ref) · read(lastReadId) · knownNames() */
  constructor({ scroller, list, jump }, on) {
    Object.assign(this, { scroller, list, jump, on });
    scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#pinned && this.#toEnd()).observe(scroller);
    jump.addEventListener('click', () => {
      this.jumpToEnd();
      this.scroller.focus({ preventScroll: true });
    });
    list.addEventListener('click', (event) => this.#clicked(event));
    for (const name of ['focus', 'blur']) addEventListener(name, () => this.#attention());
    document.addEventListener('visibilitychange', () => this.#attention());
  }

  /** A person is looking at the newest message. */
  get #reading() {
    return this.#pinned && document.visibilityState === 'visible' && document.hasFocus();
  }

  // --- what comes in

  /** A first welcome: the room's latest, and where this reader had stopped before. */
  open(messages, more, lastRead) {
    this.more = more;
    this.#lastRead = lastRead;
    if (!messages.length) return this.#schedule();
    for (const message of messages) this.#insert(message);
    const unread = lastRead ? messages.filter((m) => compareIds(m.id, lastRead) > 0 && !this.#mine(m)).length : 0;
    this.#moveToEnd();
    if (!unread) {
      this.#nowRead();
      return this.#schedule();
    }
    this.#lineAfter = lastRead;
    this.unread = unread;
    this.#draw();
    const line = this.#rows.get('new');
    // Start where the reader had stopped, unless all that is new fits on the screen anyway.
    if (line && line.offsetTop < this.scroller.scrollTop) {
      this.scroller.scrollTop = line.offsetTop - this.scroller.clientHeight / 5;
      this.#pinned = false;
    }
    this.#attention();
  }

  /** Messages that are new to this page: live, or missed while away. */
  add(messages) {
    let grown = false;
    for (const message of messages) {
      if (!this.#insert(message)) continue;
      grown = true;
      if (this.#mine(message)) continue;
      if (!this.#reading) {
        this.#lineAfter ??= this.#lastRead;
        this.unread++;
      }
    }
    if (!grown) return;
    if (this.#reading) this.#nowRead();
    this.#trimMemory();
    if (this.#pinned) this.#moveToEnd();
    this.#schedule();
  }

  /** The outbox as it stands now; its messages are shown at the end. */
  setPending(items) {
    const own = items.length > this.#pending.length;
    this.#pending = items.map((item) => ({ ...item, kind: 'pending', key: `r:${item.ref}`, name: this.me }));
    this.#schedule();
    return own;
  }

  /** Who came and went. Neighbouring notices become one, and one that came and went in it cancels out. */
  notice(joined, left) {
    const last = this.#items.at(-1);
    if (last?.kind === 'notice') {
      for (const name of joined) if (!last.left.delete(name)) last.joined.add(name);
      for (const name of left) if (!last.joined.delete(name)) last.left.add(name);
      if (!last.joined.size && !last.left.size) this.#remove(this.#items.length - 1);
    } else {
      const at = Date.now();
      this.#items.push({ kind: 'notice', key: `n:${this.#notices++}`, at, joined: new Set(joined), left: new Set(left) });
    }
    if (this.#pinned) this.#moveToEnd();
    this.#schedule();
  }

  /** Some messages are no longer to be had; say so where they would have been. */
  gap() {
    this.#items.push({ kind: 'gap', key: `g:${this.#notices++}`, at: Date.now() });
    this.#schedule();
  }

  /** More was missed than anybody will fetch: forget what is older than `id`, so that scrolling back is without holes. */
  forgetBefore(id) {
    const at = this.#items.findIndex((item) => item.id === id);
    if (at > 0) this.#dropFirst(at);
    this.more = true;
    this.#schedule();
  }

  /** The last text that this person said, for the up arrow. */
  lastOwnText() {
    return this.#pending.at(-1)?.text ?? this.#items.findLast((item) => item.kind === 'message' && this.#mine(item))?.text;
  }

  jumpToEnd() {
    this.#pinned = true;
    this.#moveToEnd();
    this.#draw();
    this.#attention();
  }

  /** Saying something means having read what is above. */
  spoke() {
    this.#lineAfter = null;
    this.jumpToEnd();
  }

  // --- the array

  #mine(message) {
    return fold(message.name) === fold(this.me);
  }

  /** Puts a message in its place; false if it is there already. */
  #insert(message) {
    if (this.#byId.has(message.id)) return false;
    const item = { ...message, kind: 'message', key: `m:${message.id}` };
    let at = this.#items.length;
    // Notices have no id; one keeps its place among the messages that it came between.
    for (; at > 0; at--) {
      const before = this.#items[at - 1];
      if (before.kind === 'message' && compareIds(before.id, item.id) < 0) break;
      if (before.kind !== 'message' && before.at <= item.at) break;
    }
    this.#items.splice(at, 0, item);
    this.#byId.set(item.id, item);
    if (at < this.#from) this.#from++;
    if (at < this.#to) this.#to++;
    this.#pending = this.#pending.filter(({ ref }) => ref !== message.ref);
    return true;
  }

  #remove(at) {
    this.#items.splice(at, 1);
    if (at < this.#from) this.#from--;
    if (at < this.#to) this.#to--;
  }

  #trimMemory() {
    if (this.#pinned && this.#items.length > KEEP + 500) {
      this.#dropFirst(this.#items.length - KEEP);
      this.more = true;
    }
  }

  #dropFirst(count) {
    for (const item of this.#items.splice(0, count)) this.#byId.delete(item.id);
    this.#from = Math.max(0, this.#from - count);
    this.#to = Math.max(0, this.#to - count);
  }

  #moveToEnd() {
    this.#to = this.#items.length;
    this.#from = Math.max(0, this.#to - WINDOW);
  }

  // --- reading

  #nowRead() {
    const newest = this.#items.findLast((item) => item.kind === 'message');
    this.unread = 0;
    if (!newest) return;
    this.#lastRead = newest.id;
    this.on.read(newest.id);
  }

  /** The reader came, went, or reached the end. */
  #attention() {
    if (this.#reading) this.#nowRead();
    else if (!this.unread) this.#lineAfter = null; // gone with all read: the next message sets a new line
    this.on.unread(this.unread);
    this.#schedule();
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.scroller;
    const toEnd = scrollHeight - scrollTop - clientHeight;
    const pinned = this.#to === this.#items.length && toEnd < STICKY;
    if (pinned !== this.#pinned) {
      this.#pinned = pinned;
      this.#attention();
    }
    if (scrollTop < NEAR) this.#older();
    if (toEnd < NEAR && this.#to < this.#items.length) {
      this.#to = Math.min(this.#items.length, this.#to + STEP);
      this.#from = Math.max(this.#from, this.#to - WINDOW);
      this.#draw();
    }
  }

  async #older() {
    if (this.#from > 0) {
      this.#from = Math.max(0, this.#from - STEP);
      this.#to = Math.min(this.#to, this.#from + WINDOW);
      return this.#draw();
    }
    const first = this.#items.find((item) => item.kind === 'message');
    if (!this.more || this.#loading || !first) return;
    this.#loading = true;
    this.#schedule();
    const { messages, more } = await this.on.loadOlder(first.id);
    this.#loading = false;
    this.more = more && messages.length > 0;
    for (const message of messages) this.#insert(message);
    if (this.#pinned) this.#moveToEnd();
    this.#draw();
    this.#scrolled();
  }

  // --- drawing

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.#draw());
  }

  #toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #draw() {
    this.#scheduled = false;
    const entries = this.#entries();
    const wanted = new Set(entries.map(({ key }) => key));
    const anchor = this.#pinned ? null : this.#anchor(wanted);
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    let next = this.list.firstChild;
    for (const entry of entries) {
      let row = this.#rows.get(entry.key);
      if (row?.shape !== entry.shape) {
        if (row && row === next) next = row.nextSibling;
        row?.remove();
        row = this.#build(entry);
        row.shape = entry.shape;
        this.#rows.set(entry.key, row);
        this.list.insertBefore(row, next);
      } else if (row === next) next = row.nextSibling;
      else this.list.insertBefore(row, next);
    }
    if (this.#pinned) this.#toEnd();
    else if (anchor) this.scroller.scrollTop += anchor.row.getBoundingClientRect().top - anchor.top;
    this.#drawJump();
    this.on.unread(this.unread);
  }

  /** The first row in view that will still be there. */
  #anchor(wanted) {
    const top = this.scroller.getBoundingClientRect().top;
    for (const row of this.list.children) {
      const box = row.getBoundingClientRect();
      if (box.bottom > top && wanted.has(row.dataset.key) && row.classList.contains('message')) return { row, top: box.top };
    }
    return null;
  }

  #drawJump() {
    this.jump.hidden = this.#pinned;
    const label = this.unread ? `${this.unread} new message${this.unread > 1 ? 's' : ''}` : 'Latest messages';
    this.jump.firstElementChild.textContent = label;
    this.jump.classList.toggle('fresh', this.unread > 0);
  }

  /** The rows that should be in the page: the window's items with what stands between them. */
  #entries() {
    const entries = [];
    if (this.#from === 0) {
      if (this.more || this.#loading) entries.push({ kind: 'loading', key: 'loading', shape: `${this.#loading}` });
      else entries.push({ kind: 'start', key: 'start', shape: '' });
    }
    let last = null; // the message before, for grouping
    for (let i = this.#from - 1; i >= 0 && !last; i--) if (this.#items[i].kind === 'message') last = this.#items[i];
    let grouping = this.#from > 0 && this.#items[this.#from - 1]?.kind === 'message';
    let lined = !this.#lineAfter || (last && compareIds(last.id, this.#lineAfter) > 0);
    const shown = this.#items.slice(this.#from, this.#to);
    if (this.#to === this.#items.length) shown.push(...this.#pending);
    for (const item of shown) {
      if (item.kind === 'notice' || item.kind === 'gap') {
        entries.push({ ...item, shape: item.kind === 'notice' ? noticeText(item) : '' });
        grouping = false;
        continue;
      }
      if (!last || !sameDay(last.at, item.at)) {
        const label = dayLabel(item.at);
        entries.push({ kind: 'day', key: `d:${item.key}`, label, shape: label });
        grouping = false;
      }
      if (!lined && item.kind === 'message' && compareIds(item.id, this.#lineAfter) > 0 && !this.#mine(item)) {
        lined = true;
        if (last || !this.more) entries.push({ kind: 'new', key: 'new', shape: '' });
        grouping = false;
      }
      const lead = !grouping || fold(last.name) !== fold(item.name) || item.at - last.at > GROUP_WITHIN;
      entries.push({ ...item, lead, shape: `${lead} ${item.kind} ${item.state} ${item.reason} ${this.#mine(item)}` });
      last = item;
      grouping = true;
    }
    return entries;
  }

  #build(entry) {
    const row = element('li', `row ${entry.kind}`);
    row.dataset.key = entry.key;
    switch (entry.kind) {
      case 'loading': row.textContent = this.#loading ? 'Loading older messages…' : 'Older messages'; break;
      case 'start': row.textContent = 'This is where the room begins.'; break;
      case 'day': row.append(element('span', '', entry.label)); break;
      case 'new': row.append(element('span', '', 'New')); break;
      case 'gap': row.append(element('span', '', 'Some messages from while you were away are no longer kept.')); break;
      case 'notice': row.append(element('bdi', '', noticeText(entry))); break;
      default: this.#buildMessage(row, entry);
    }
    return row;
  }

  #buildMessage(row, { kind, name, text, at, lead, state, reason, ref }) {
    const own = this.#mine({ name });
    row.className = `row message ${colour(name)} ${lead ? 'lead' : ''} ${own ? 'own' : ''} ${kind === 'pending' ? state : ''}`;
    if (!own && mentions(text, this.me)) row.classList.add('to-me');
    if (lead && !own) {
      const picture = element('span', 'picture', initial(name));
      picture.ariaHidden = 'true';
      row.append(picture);
    }
    const head = element('div', 'head');
    head.append(nameElement(own ? 'You' : name, own || !lead ? 'visually-hidden' : 'name'));
    const time = element('time', '', clock.format(at));
    time.dateTime = new Date(at).toISOString();
    time.title = fullDate.format(at);
    head.append(time);
    const body = element('div', 'body');
    body.dir = 'auto';
    body.append(render(text, this.me, this.on.knownNames()));
    if (emojiOnly(text)) body.classList.add('emoji');
    row.append(head, body);
    if (text.length > LONG.chars || text.split('\n', LONG.lines + 1).length > LONG.lines) clamp(row, body);
    if (kind === 'pending') row.append(pendingState(state, reason, ref));
  }

  #clicked({ target }) {
    const button = target.closest('button');
    if (!button) return;
    if (button.dataset.retry) this.on.retry(button.dataset.retry);
    if (button.dataset.discard) this.on.discard(button.dataset.discard);
    if (button.classList.contains('unfold')) {
      const open = button.previousElementSibling.classList.toggle('folded');
      button.textContent = open ? 'Show all' : 'Show less';
      button.ariaExpanded = String(!open);
    }
  }
}

/** A very long message is shown in part, with a button for the rest. */
function clamp(row, body) {
  body.classList.add('folded');
  const button = element('button', 'unfold link', 'Show all');
  button.type = 'button';
  button.ariaExpanded = 'false';
  row.append(button);
}

function pendingState(state, reason, ref) {
  const line = element('div', 'state');
  if (state !== 'failed') {
    const words = { rate_limited: 'A little slower, please: it goes out in a moment', unavailable: 'Waiting for the server' };
    line.append(element('span', '', words[reason] ?? (state === 'sending' ? 'Sending…' : 'Waiting to be sent')));
    return line;
  }
  line.append(element('span', '', `Not sent: ${reason}`));
  for (const [word, key] of [['Try again', 'retry'], ['Discard', 'discard']]) {
    const button = element('button', 'link', word);
    button.type = 'button';
    button.dataset[key] = ref;
    line.append(button);
  }
  return line;
}

/** "Ada joined", "Ada and Bob left", "5 people joined, Cleo left". */
function noticeText({ joined, left }) {
  const part = (names, verb) => {
    const list = [...names];
    if (!list.length) return '';
    if (list.length > 2) return `${list.length} people ${verb}`;
    return `${list.join(' and ')} ${verb}`;
  };
  return [part(joined, 'joined'), part(left, 'left')].filter(Boolean).join(', ');
}
