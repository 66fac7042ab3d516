// The conversation on screen. The page has rows only for a window of the log, which moves with the reader, so 5,000
// messages cost no more than 150. `#draw` changes only the rows that differ, and keeps the visible ones in place.

import { compareIds, listen } from './base.js';
import { Log } from './log.js';
import { buildRow, dayOf, entriesOf } from './rows.js';
import { nameIndex } from './text.js';

const boxOf = (node) => node.getBoundingClientRect();

const WINDOW = 145; // messages with rows; even with a day line before each, that is under 300 rows
const STEP = 40; // messages by which the window moves
const NEAR = 600; // distance in pixels from the window's end at which it moves
const KEEP = 10_000; // messages in memory; older ones can be fetched again
const REST = 3; // pause after a draw, as a multiple of its cost: under load, drawing takes 1/4 of the time

export class Timeline {
	#me; // { name, by, index }
	#log;
	#pending; // unsent messages, shown after the log; the window spans both
	#more; // whether the server has older messages
	#from; // the window
	#to;
	#pinned; // whether the reader is at the end, and stays there as messages arrive
	#rows; // key → row in the page
	#lineAfter; // the "New" line is before the first message after this id
	#lastRead;
	#unread;
	#unreadMore; // whether more unread messages are not loaded
	#loading;
	#scheduled = false;
	#top = 0; // the last scroll position, to determine the direction
	#drawnAt = 0;
	#drawCost = 0;

	/** `on`: loadOlder(id) → {messages, more} · read(id) · unread(count, andMore) · everybody() → index of names */
	constructor(scroller, list, jump, on) {
		Object.assign(this, { scroller, list, jump, on });
		this.reset();
		listen(scroller, 'scroll', () => this.#scrolled());
		new ResizeObserver(() => this.#pinned && this.#toEnd()).observe(scroller);
		listen(jump, 'click', () => {
			this.jumpToEnd();
			scroller.focus();
		});
		for (const name of ['focus', 'blur', 'visibilitychange']) listen(window, name, () => this.#attention(), true);
	}

	/** Clears it, for another room. */
	reset() {
		this.#log = new Log();
		this.#pending = [];
		this.#more = true;
		this.#from = this.#to = this.#unread = 0;
		this.#pinned = true;
		this.#rows = new Map();
		this.#lineAfter = this.#lastRead = null;
		this.#unreadMore = this.#loading = false;
		this.#me = { name: '', by: '', index: nameIndex([]) };
		this.list.replaceChildren();
	}

	// --- input

	/** The person at this browser: name, mark and index for mentions. */
	set me({ name, by }) {
		this.#me = { name, by, index: nameIndex([name]) };
	}

	/** Shows a first welcome: the room's latest messages, scrolled to where this reader left off. */
	open(messages, more, lastRead) {
		this.#more = more;
		this.#lastRead = lastRead;
		for (const message of messages) {
			this.#insert(message);
			if (lastRead && compareIds(message.id, lastRead) > 0 && !this.#mine(message)) this.#unread++;
		}
		this.#unreadMore = Boolean(more && this.#unread && compareIds(messages[0].id, lastRead) > 0);
		if (this.#unread) this.#lineAfter = lastRead;
		this.#toWindowEnd();
		this.#draw();
		const line = this.#rows.get('new');
		if (line && line.offsetTop < this.scroller.scrollTop) {
			// Start where the reader left off, unless all new messages fit on the screen.
			this.#pinned = false;
			this.scroller.scrollTop = line.offsetTop - this.scroller.clientHeight / 5;
		}
		if (this.#reading) this.#nowRead();
		this.#schedule();
	}

	/** Adds messages new to this page: live, or missed while away. */
	add(messages) {
		const atEnd = this.#to === this.#length;
		for (const message of messages) {
			if (!this.#insert(message) || this.#mine(message) || this.#reading) continue;
			if (!this.#unread++) this.#lineAfter = this.#lastRead;
		}
		if (this.#reading) this.#nowRead();
		this.#grow(atEnd);
	}

	/** The outbox's messages for this room. */
	set pending(items) {
		const atEnd = this.#to === this.#length;
		this.#pending = items.map((item) => ({ ...item, id: undefined, key: item.ref, by: this.#me.by, own: true, day: dayOf(item.at) }));
		this.#grow(atEnd);
	}

	notice(joined, left) {
		const atEnd = this.#to === this.#length;
		this.#log.notice(joined, left);
		this.#grow(atEnd);
	}

	append(item) {
		const atEnd = this.#to === this.#length;
		this.#log.append(item);
		this.#grow(atEnd);
	}

	/** Removes messages: { ids, upto }. */
	remove(what) {
		this.#log.remove(what);
		const isNew = (item) => item.text && !this.#mine(item) && compareIds(item.id, this.#lastRead ?? '0-0') > 0;
		if (this.#unread) this.#unread = this.#log.items.filter(isNew).length;
		this.#from = Math.max(0, Math.min(this.#from, this.#length - STEP));
		this.#grow(true);
	}

	lastOwnText() {
		return (this.#pending.at(-1) ?? this.#log.items.findLast((item) => item.text && this.#mine(item)))?.text;
	}

	messageOf(row) {
		return this.#log.find(row.dataset.id);
	}

	asText() {
		return this.#log.asText();
	}

	jumpToEnd() {
		this.#pinned = true;
		this.#toWindowEnd();
		this.#draw();
		this.#attention();
	}

	/** The person has sent a message, which implies having read those above. */
	spoke() {
		this.#lineAfter = null;
		this.jumpToEnd();
	}

	// --- the array

	get #length() {
		return this.#log.items.length + this.#pending.length;
	}

	#mine({ by, own }) {
		return own || by === this.#me.by;
	}

	/** Inserts a message; false if it is already there. */
	#insert(message) {
		if (this.#mine(message)) this.#pending = this.#pending.filter(({ ref }) => ref !== message.ref);
		const at = this.#log.insert(message);
		if (at < 0) return false;
		const isAbove = at < this.#from || (at === 0 && this.#to > 0);
		if (isAbove) this.#from++;
		if (at < this.#to) this.#to++;
		return true;
	}

	#toWindowEnd() {
		if (this.#log.trim(KEEP)) this.#more = true;
		this.#to = this.#length;
		this.#from = Math.max(0, this.#to - WINDOW);
	}

	/** Messages were added. A window that was at the end is extended to include them, up to its size. */
	#grow(atEnd) {
		this.#to = Math.min(this.#to, this.#length);
		this.#from = Math.min(this.#from, this.#to);
		if (this.#pinned) this.#toWindowEnd();
		else if (atEnd) this.#to = Math.min(this.#length, Math.max(this.#to, this.#from + WINDOW));
		this.#schedule();
	}

	// --- reading

	/** Whether the newest message is in view of a person who is present. */
	get #reading() {
		return this.#pinned && document.hasFocus();
	}

	#nowRead() {
		this.#unread = 0;
		this.#unreadMore = false;
		const newest = this.#log.newestId ?? '0-0';
		if (compareIds(newest, this.#lastRead ?? '0-0') > 0) this.on.read((this.#lastRead = newest));
	}

	/** The reader has come, gone, or reached the end. */
	#attention() {
		if (this.#reading) this.#nowRead();
		else if (!this.#unread && !document.hasFocus()) this.#lineAfter = null; // left with everything read
		this.#schedule();
	}

	#scrolled() {
		const { scrollTop, clientHeight, scrollHeight } = this.scroller;
		const below = scrollHeight - scrollTop - clientHeight;
		const [up, down] = [scrollTop < this.#top, scrollTop > this.#top];
		this.#top = scrollTop;
		const pinned = this.#to === this.#length && below < 48;
		if (pinned !== this.#pinned) {
			this.#pinned = pinned;
			this.#attention();
		}
		if (up && scrollTop < NEAR) this.#older();
		else if (down && below < NEAR && this.#to < this.#length) {
			this.#to = Math.min(this.#length, this.#to + STEP);
			this.#from = Math.max(this.#from, this.#to - WINDOW);
			this.#draw();
		}
	}

	/** Moves the window back, or fetches older messages. */
	async #older() {
		if (this.#from > 0) {
			this.#from = Math.max(0, this.#from - STEP);
			this.#to = Math.min(this.#to, this.#from + WINDOW);
			return this.#draw();
		}
		const { first } = this.#log;
		const rows = this.#rows;
		if (!this.#more || this.#loading || !first) return;
		this.#loading = true;
		const { messages, more } = await this.on.loadOlder(first.id);
		if (rows !== this.#rows) return; // the room has changed in the meantime
		this.#loading = false;
		this.#more = more;
		for (const message of messages.toReversed()) {
			this.#insert(message);
			this.#unreadMore &&= compareIds(message.id, this.#lastRead) > 0;
			if (this.#unreadMore && !this.#mine(message)) this.#unread++;
		}
		this.#unreadMore &&= more;
		this.#schedule();
		if (this.#from > 0) this.#older();
		else this.#draw();
	}

	// --- drawing

	/** Draws at the next frame, or later if drawing is slow, so that the page stays responsive. */
	#schedule() {
		this.on.unread(this.#unread, this.#unreadMore);
		if (this.#scheduled) return;
		this.#scheduled = true;
		const rest = Math.min(500, this.#drawCost * REST) - (performance.now() - this.#drawnAt);
		const draw = () => requestAnimationFrame(() => this.#draw());
		if (rest > 8) setTimeout(draw, rest);
		else draw();
	}

	#toEnd() {
		this.scroller.scrollTop = this.scroller.scrollHeight;
	}

	#draw() {
		const start = performance.now();
		this.#scheduled = false;
		const entries = this.#entries();
		const wanted = new Set(entries.map(({ key }) => key));
		const before = this.scroller.scrollTop;
		const anchor = this.#pinned ? null : this.#anchor(wanted);
		const bottom = anchor && boxOf(anchor).bottom;
		for (const [key, row] of this.#rows) {
			if (wanted.has(key)) continue;
			if (row.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
			row.remove();
			this.#rows.delete(key);
		}
		let next = this.list.firstChild;
		const everybody = this.on.everybody();
		for (const entry of entries) {
			let row = this.#rows.get(entry.key);
			if (row && row === next) next = row.nextSibling;
			if (row?.shape !== entry.shape) {
				row?.remove();
				row = buildRow(entry, this.#me, everybody);
				this.#rows.set(entry.key, row);
			}
			if (row.nextSibling !== next || !row.parentNode) this.list.insertBefore(row, next);
		}
		if (this.#pinned) this.#toEnd();
		else if (anchor) this.scroller.scrollTop += boxOf(this.#rows.get(anchor.key)).bottom - bottom;
		// Only the distance moved here: the reader may just have scrolled, and that event is still to come.
		this.#top += this.scroller.scrollTop - before;
		this.#labelJump();
		// The window does not fill a tall screen.
		const isShort = this.scroller.scrollHeight < this.scroller.clientHeight * 1.2 && this.#to - this.#from < WINDOW;
		this.#drawnAt = performance.now();
		this.#drawCost = this.#drawCost * 0.7 + (this.#drawnAt - start) * 0.3;
		if (isShort) this.#older();
	}

	#labelJump() {
		const news = this.#unread;
		this.jump.hidden = this.#pinned;
		this.jump.classList.toggle('fresh', news > 0);
		const words = news ? `${news.toLocaleString('en')}${this.#unreadMore ? '+' : ''} new message${news > 1 ? 's' : ''}` : 'Latest messages';
		this.jump.firstElementChild.textContent = words;
	}

	/** The first visible message among those that will stay. */
	#anchor(wanted) {
		const { top } = boxOf(this.scroller);
		return [...this.list.children].find((row) => row.dataset.id && wanted.has(row.key) && boxOf(row).bottom > top);
	}

	#entries() {
		const view = { from: this.#from, to: this.#to, more: this.#more, lastRead: this.#lastRead, me: this.#me };
		// While older unread messages exist, the "New" line does not belong before the first loaded one.
		const lineAfter = this.#unreadMore ? null : this.#lineAfter;
		return entriesOf(this.#log, this.#pending, { ...view, lineAfter, isMine: (item) => this.#mine(item) });
	}
}
