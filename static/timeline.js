// The conversation on the screen. All loaded messages are in one sorted array; the page holds rows for a window of them
// that follows the reader, so 5,000 cost the browser no more than 200. `#draw` compares the rows that should be there
// with those that are and changes only the difference; what the reader looks at keeps its place.

import { compareIds } from './connection.js';
import { button, element, emojiOnly, isolated, listen, mentions, picture, render, same, tint } from './text.js';

const boxOf = (node) => node.getBoundingClientRect();

const WINDOW = 200;
const STEP = 60; // rows by which the window moves
const NEAR = 800; // pixels from the window's end at which it does
const KEEP = 10_000; // in memory; older ones can be fetched again
const GROUP_WITHIN = 5 * 60_000;

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: 'full' });

function dayOf(at) {
	const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(at).setHours(0, 0, 0, 0)) / 86_400_000);
	return ['Today', 'Yesterday'][days] ?? date.format(at);
}

export class Timeline {
	me = '';
	#items = []; // messages, notices and gaps by id; what is no message has no text, and the id before it
	#pending = []; // the outbox, shown at the end
	#more = false; // the server has older ones
	#from = 0; // the window
	#to = 0;
	#pinned = true; // the reader is at the end, and stays there as messages come
	#rows = new Map(); // key → row in the page
	#scheduled = false;
	#loading = false;
	#lineAfter = null; // the "New" line stands before the first message after this id
	#lastRead = null;
	#unread = 0;
	#keys = 0;

	/** `on`: loadOlder(id) → {messages, more} · retry(ref) · discard(ref) · read(id) · unread(count) · names() */
	constructor(scroller, list, jump, on) {
		Object.assign(this, { scroller, list, jump, on });
		listen(scroller, 'scroll', () => this.#scrolled());
		new ResizeObserver(() => this.#pinned && this.#toEnd()).observe(scroller);
		listen(jump, 'click', () => {
			this.jumpToEnd();
			scroller.focus();
		});
		listen(list, 'click', ({ target }) => this.#clicked(target));
		for (const name of ['focus', 'blur', 'visibilitychange']) addEventListener(name, () => this.#attention(), true);
	}

	// --- what comes in

	/** A first welcome: the room's latest, and where this reader had stopped before. */
	open(messages, more, lastRead) {
		this.#more = more;
		this.#lastRead = lastRead;
		for (const message of messages) {
			this.#insert(message);
			if (lastRead && compareIds(message.id, lastRead) > 0 && !this.#mine(message)) this.#unread++;
		}
		if (this.#unread) this.#lineAfter = lastRead;
		this.#toWindowEnd();
		this.#draw();
		const line = this.#rows.get('new');
		if (line && line.offsetTop < this.scroller.scrollTop) {
			// Start where the reader had stopped, unless all that is new fits on the screen anyway.
			this.#pinned = false;
			this.scroller.scrollTop = line.offsetTop - this.scroller.clientHeight / 5;
		}
		if (this.#reading) this.#nowRead();
		this.#schedule();
	}

	/** Messages new to this page: live, or missed while away. */
	add(messages) {
		const atEnd = this.#to === this.#items.length && this.#to - this.#from < 2 * WINDOW;
		for (const message of messages) {
			if (!this.#insert(message) || this.#mine(message) || this.#reading) continue;
			if (!this.#unread++) this.#lineAfter = this.#lastRead;
		}
		if (this.#reading) this.#nowRead();
		if (this.#pinned) this.#toWindowEnd();
		else if (atEnd) this.#to = this.#items.length;
		this.#schedule();
	}

	/** The outbox as it is now. */
	setPending(items) {
		this.#pending = items.map((item) => ({ ...item, key: item.ref, name: this.me }));
		this.#schedule();
	}

	/** Who came and went. Neighbouring notices become one, and who came and went within it is left out. */
	notice(joined, left) {
		let last = this.#items.at(-1);
		if (last?.kind !== 'notice') last = this.append({ kind: 'notice', joined: new Set(), left: new Set() });
		for (const name of joined) if (!last.left.delete(name)) last.joined.add(name);
		for (const name of left) if (!last.joined.delete(name)) last.left.add(name);
		if (!last.joined.size && !last.left.size) this.#items.pop();
		this.#to = Math.min(this.#to, this.#items.length);
		this.#schedule();
	}

	/** A notice, or a gap: from here on, messages are no longer to be had. */
	append(item) {
		if (this.#to === this.#items.length) this.#to++;
		this.#items.push({ ...item, id: this.#items.at(-1)?.id ?? '0-0', key: `k${this.#keys++}` });
		this.#schedule();
		return this.#items.at(-1);
	}

	/** The last text that this person said. */
	lastOwnText() {
		return (this.#pending.at(-1) ?? this.#items.findLast((item) => item.text && this.#mine(item)))?.text;
	}

	jumpToEnd() {
		this.#pinned = true;
		this.#toWindowEnd();
		this.#draw();
		this.#attention();
	}

	/** Saying something means having read what is above. */
	spoke() {
		this.#lineAfter = null;
		this.jumpToEnd();
	}

	// --- the array

	#mine({ name }) {
		return same(name, this.me);
	}

	/** Puts a message in its place; false if it is there already. */
	#insert(message) {
		this.#pending = this.#pending.filter(({ ref }) => ref !== message.ref);
		let [low, at] = [0, this.#items.length];
		while (low < at) {
			const middle = (low + at) >> 1;
			if (compareIds(this.#items[middle].id, message.id) > 0) at = middle;
			else low = middle + 1;
		}
		for (let i = at - 1; this.#items[i]?.id === message.id; i--) if (this.#items[i].text) return false;
		this.#items.splice(at, 0, { ...message, key: message.id });
		if (at < this.#from) this.#from++;
		if (at < this.#to) this.#to++;
		return true;
	}

	#toWindowEnd() {
		if (this.#items.length > KEEP + STEP) {
			this.#items.splice(0, this.#items.length - KEEP);
			this.#more = true;
		}
		this.#to = this.#items.length;
		this.#from = Math.max(0, this.#to - WINDOW);
	}

	// --- reading

	/** Whether a person is looking at the newest message. */
	get #reading() {
		return this.#pinned && document.hasFocus();
	}

	#nowRead() {
		this.#unread = 0;
		const newest = this.#items.at(-1)?.id ?? null;
		if (newest !== this.#lastRead) this.on.read((this.#lastRead = newest));
	}

	/** The reader came, went, or reached the end. */
	#attention() {
		if (this.#reading) this.#nowRead();
		else if (!this.#unread && !document.hasFocus()) this.#lineAfter = null; // gone with all read
		this.#schedule();
	}

	#scrolled() {
		const { scrollTop, clientHeight, scrollHeight } = this.scroller;
		const below = scrollHeight - scrollTop - clientHeight;
		const pinned = this.#to === this.#items.length && below < 48;
		if (pinned !== this.#pinned) {
			this.#pinned = pinned;
			this.#attention();
		}
		if (scrollTop < NEAR) this.#older();
		else if (below < NEAR && this.#to < this.#items.length) {
			this.#to = Math.min(this.#items.length, this.#to + STEP);
			this.#from = Math.max(this.#from, this.#to - WINDOW);
			this.#draw();
		}
	}

	/** Moves the window back, or fetches what is before all. */
	async #older() {
		if (this.#from > 0) {
			this.#from = Math.max(0, this.#from - STEP);
			this.#to = Math.min(this.#to, this.#from + WINDOW);
			return this.#draw();
		}
		const first = this.#items.find(({ text }) => text);
		if (!this.#more || this.#loading || !first) return;
		this.#loading = true;
		const { messages, more } = await this.on.loadOlder(first.id);
		this.#loading = false;
		this.#more = more;
		for (const message of messages) this.#insert(message);
		this.#draw();
		this.#scrolled();
	}

	// --- drawing

	#schedule() {
		this.on.unread(this.#unread);
		if (!this.#scheduled) requestAnimationFrame(() => this.#draw());
		this.#scheduled = true;
	}

	#toEnd() {
		this.scroller.scrollTop = this.scroller.scrollHeight;
	}

	#draw() {
		this.#scheduled = false;
		const entries = this.#entries();
		const wanted = new Set(entries.map(({ key }) => key));
		const anchor = this.#pinned ? null : this.#anchor(wanted);
		const bottom = anchor && boxOf(anchor).bottom;
		for (const [key, row] of this.#rows) {
			if (wanted.has(key)) continue;
			row.remove();
			this.#rows.delete(key);
		}
		let next = this.list.firstChild;
		for (const entry of entries) {
			let row = this.#rows.get(entry.key);
			if (row && row === next) next = row.nextSibling;
			if (row?.shape !== entry.shape) {
				row?.remove();
				row = this.#build(entry);
				this.#rows.set(entry.key, row);
			}
			if (row.nextSibling !== next || !row.parentNode) this.list.insertBefore(row, next);
		}
		if (this.#pinned) this.#toEnd();
		else if (anchor) this.scroller.scrollTop += boxOf(this.#rows.get(anchor.key)).bottom - bottom;
		const count = this.#unread;
		this.jump.hidden = this.#pinned;
		this.jump.classList.toggle('fresh', count > 0);
		this.jump.firstElementChild.textContent = count ? `${count} new message${count > 1 ? 's' : ''}` : 'Latest messages';
		if (this.scroller.scrollHeight < this.scroller.clientHeight * 1.2) this.#older(); // a tall screen
	}

	/** The first message in view, of those that will stay. */
	#anchor(wanted) {
		const { top } = boxOf(this.scroller);
		return [...this.list.children].find((row) => row.dataset.id && wanted.has(row.key) && boxOf(row).bottom > top);
	}

	/** The window's items, and what stands between them. A row is built anew when its `shape` has changed. */
	#entries() {
		const entries = [];
		let lead = true; // the next message is a group's first
		const line = (kind, key, label) => {
			entries.push({ kind, key, label, shape: label });
			lead = true;
		};
		if (this.#from === 0) line('edge', 'edge', this.#more ? 'Loading older messages…' : 'The room begins here.');
		let last = this.#items.slice(0, this.#from).findLast(({ text }) => text);
		let marked = !this.#lineAfter || (last && compareIds(last.id, this.#lineAfter) > 0);
		for (const item of [...this.#items.slice(this.#from, this.#to), ...(this.#to === this.#items.length ? this.#pending : [])]) {
			if (!item.text) {
				line('notice', item.key, item.kind === 'gap' ? 'Some messages from while you were away are no longer kept.' : noticeText(item));
				continue;
			}
			if (!last || dayOf(last.at) !== dayOf(item.at)) line('day', `d${item.key}`, dayOf(item.at));
			if (!marked && item.id && compareIds(item.id, this.#lineAfter) > 0 && !this.#mine(item)) {
				marked = true;
				line('new', 'new', 'New');
			}
			lead ||= !same(last.name, item.name) || item.at - last.at > GROUP_WITHIN;
			entries.push({ ...item, lead, shape: [lead, item.state, item.reason, this.#mine(item)].join() });
			last = item;
			lead = false;
		}
		return entries;
	}

	#build(entry) {
		const { kind, key, label, shape } = entry;
		const row = label ? element('li', kind, element('span', '', label)) : this.#message(entry);
		return Object.assign(row, { key, shape });
	}

	#message({ id, name, text, at, lead, state, reason, ref }) {
		const own = this.#mine({ name });
		const classes = ['message', lead && 'lead', own && 'own', state, !own && mentions(text, this.me) && 'to-me'];
		const row = tint(element('li', classes.filter(Boolean).join(' ')), name);
		if (id) row.dataset.id = id;
		if (lead && !own) row.append(picture(name));
		const time = element('time', '', state ? STATES[reason] ?? STATES[state] : clock.format(at));
		Object.assign(time, { dateTime: new Date(at).toISOString(), title: date.format(at) });
		const body = element('div', `body ${emojiOnly(text) ? 'emoji' : ''}`, render(text, this.me, [...this.on.names()]));
		body.dir = 'auto';
		row.append(element('div', 'head', element('bdi', own || !lead ? 'visually-hidden' : 'name', own ? 'You' : name), time), body);
		if (text.length > 1800 || text.split('\n').length > 24) {
			body.classList.add('folded');
			row.append(button('unfold link', 'Show all'));
		}
		if (state === 'failed') {
			row.append(element('p', 'problem', reason, button('link', 'Try again', { retry: ref }), button('link', 'Discard', { discard: ref })));
		}
		return row;
	}

	#clicked({ dataset, classList, previousElementSibling: body }) {
		if (dataset.retry) this.on.retry(dataset.retry);
		if (dataset.discard) this.on.discard(dataset.discard);
		if (classList.contains('unfold')) body.nextSibling.textContent = body.classList.toggle('folded') ? 'Show all' : 'Show less';
	}
}

/** What stands in the place of the time until the receipt. */
const STATES = { sending: 'Sending…', waiting: 'Waiting', failed: 'Not sent', rate_limited: 'A little slower…' };

/** "Ada joined", "Ada and Bob left", "5 people joined, Cleo left". */
function noticeText({ joined, left }) {
	const part = (names, verb) => (names.size > 2 ? `${names.size} people` : [...names].map(isolated).join(' and ')) + verb;
	return [joined.size && part(joined, ' joined'), left.size && part(left, ' left')].filter(Boolean).join(', ');
}
