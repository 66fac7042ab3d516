// The life cycle of the WebSocket: joining, resuming after the last id seen, detecting a dead connection, and sending
// the messages in the outbox. Independent of the page: events go to `handlers`.
//
// A message leaves the outbox only with its receipt or a final refusal; until then it is resent under the same `ref`.
// Only a room's oldest message is in flight, so messages arrive in the order in which they were written.

import { BASE, compareIds, listen, refusalOf } from './base.js';

const PING_AFTER = 10_000; // ms without a frame after which the connection is pinged
const PONG_WITHIN = 8000; // ms after a ping within which a frame must arrive
const DOUBT_WITHIN = 3000; // the same after sleep or a change of network, when the connection is likely dead
const OPEN_WITHIN = 10_000;
const ANSWER_WITHIN = 5000; // for a join on a connection that was already open
const SLOW_AFTER = 2500; // ms after which the page says that there is no answer
const RECEIPT_WITHIN = 6000;
// A `welcome` with this many messages, or more than this many characters, may not contain all missed messages.
const RESUME_MOST = 500;
const RESUME_SIZE = 50_000;
const PACE_MOST = 2000;

const backOff = (tries, most) => Math.min(most, 500 * 2 ** tries) * (0.5 + Math.random() / 2);

// Temporary reasons for a refused join, which is retried.
const TROUBLE = {
	unavailable: 'The server cannot reach its storage.',
	rate_limited: '', // the server says why
	full: 'This room or the server is full.',
};

export class Connection {
	/** idle · connecting · joined · waiting (to retry) · refused (ask the person) · elsewhere (in another tab) · stopped */
	state = 'idle';
	reason = '';
	trouble = ''; // why the latest attempt failed, in words
	offline = !navigator.onLine; // according to the browser, until something shows otherwise
	restarting = false;
	backplane = 'up';
	by; // this client's mark

	#socket = null;
	#opened = false;
	#retired = []; // sockets given up but not yet closed: closing one before the next welcome would release the seat
	#tries = 0;
	#joinedAt;
	#receivedAt = 0;
	#answerBy = 0; // deadline of a ping
	#history = []; // history requests, oldest first; the first is in flight
	#pace = 0; // ms between messages, after the server has refused one as `rate_limited`
	#nextSend = 0;
	#openTimer; // to give up opening, or to retry
	#slowTimer;
	#pumpTimer;
	#historyTimer;
	#end = new AbortController();

	/** `since`: the newest id seen. `handlers`: state() · welcome(frame, resumed) · messages(list, news) · presence(frame)
	 * · typing(frame) · removed(frame) */
	constructor(room, client, outbox, handlers, since) {
		Object.assign(this, { room, client, outbox, handlers, cursor: since });
		this.url = `${location.origin}${BASE}ws/${room}`;
		const { signal } = this.#end;
		const watch = setInterval(() => this.#watch(), 1000);
		listen(signal, 'abort', () => clearInterval(watch));
		listen(window, 'offline', () => {
			this.offline = true;
			this.#ping(DOUBT_WITHIN);
			handlers.state();
		}, { signal });
		listen(window, 'online', () => {
			this.offline = false;
			// Often this is another network, on which the old connection is silently dead: replace it at once.
			if (this.trying) this.#open();
		}, { signal });
		listen(document, 'visibilitychange', () => document.hidden || this.wake(), { signal });
	}

	/** Whether it is joined, or about to be. */
	get trying() {
		return ['connecting', 'joined', 'waiting'].includes(this.state);
	}

	/** Joins, or joins again after a refusal. Without a name if the proxy names the user. */
	join(name = '', passphrase) {
		Object.assign(this, { name, passphrase, trouble: '' });
		if (this.state !== 'refused' || this.#socket?.readyState !== WebSocket.OPEN) return this.#open();
		// The connection was idle while the person was asked, and may have died.
		this.#expect(ANSWER_WITHIN, () => this.#open());
		this.#become('connecting');
		return this.#sendJoin();
	}

	/** Leaves for good: the close frame releases the seat at once. */
	leave() {
		const socket = this.#socket;
		this.#retire();
		for (const one of [socket, ...this.#retired.splice(0)]) one?.close(1000);
		for (const timer of [this.#pumpTimer, this.#historyTimer]) clearTimeout(timer);
		this.#end.abort();
		this.#release();
		this.state = 'idle';
	}

	/** Retries now, or verifies a connection that appears to be alive. */
	wake() {
		if (this.state === 'waiting') this.#open();
		else if (Date.now() - this.#receivedAt > DOUBT_WITHIN) this.#ping(DOUBT_WITHIN);
	}

	/** Queues a message, which is sent when possible. */
	say(text) {
		this.outbox.add(this.room, this.name, text);
		this.pump();
	}

	typing(active) {
		if (this.state === 'joined' && !this.#pace) this.#send({ type: 'typing', active });
	}

	/** Requests a page of messages older than `before`; after a broken connection the request is repeated. */
	history(before) {
		return new Promise((resolve) => {
			if (this.#history.push({ before, resolve }) === 1) this.#askHistory();
		});
	}

	// --- opening and closing

	#open() {
		this.#retire();
		this.#opened = false;
		this.#expect(OPEN_WITHIN, () => this.#closed());
		this.#become('connecting');
		const socket = new WebSocket(this.url.replace('http', 'ws'), 'bobbin.v1');
		const current = (act) => (event) => socket === this.#socket && act(event);
		this.#socket = socket;
		socket.onopen = current(() => {
			this.#opened = true;
			this.#sendJoin();
		});
		socket.onmessage = current(({ data }) => this.#receive(JSON.parse(data), data.length));
		socket.onclose = current(({ code }) => this.#closed(code));
	}

	#expect(within, orElse) {
		clearTimeout(this.#openTimer);
		clearTimeout(this.#slowTimer);
		this.#openTimer = setTimeout(orElse, within);
		this.#slowTimer = setTimeout(() => this.#explain('The server has not answered yet.'), SLOW_AFTER);
	}

	#sendJoin() {
		const { name, client, passphrase, cursor } = this;
		this.#send({ type: 'join', name: name || undefined, client, passphrase, since: cursor });
	}

	#retire() {
		clearTimeout(this.#openTimer);
		clearTimeout(this.#slowTimer);
		if (this.#socket?.readyState < WebSocket.CLOSING) this.#retired.push(this.#socket);
		this.#socket = null;
		this.#answerBy = 0;
	}

	/** Handles the end of the connection, or (without a code) gives it up. */
	#closed(code) {
		this.#retire();
		this.#release();
		if (code === 4001) return this.#become('elsewhere');
		if (code === 4003) return this.#become(this.state === 'refused' ? 'refused' : 'stopped', 'locked');
		if (this.state === 'refused') return undefined; // the join form is open; submitting it opens a connection
		if (code === 4004) return this.#become('stopped', 'banned');
		if (code === 1008) return this.#become('stopped', 'policy');
		// A connection that lasted resets the delay; one that was closed at once does not.
		if (this.state === 'joined' && Date.now() - this.#joinedAt > 5000) this.#tries = 0;
		this.restarting ||= code === 1012;
		this.#waitToOpen(code === 1012 ? Math.random() * 3000 : backOff(this.#tries++, 15_000));
		this.#become('waiting');
		if (!this.#opened) return this.#whyRefused();
		return this.#explain(code === 1013 ? 'The connection was too slow for this room.' : '');
	}

	#waitToOpen(wait) {
		clearTimeout(this.#openTimer);
		this.#openTimer = setTimeout(() => this.#open(), wait);
	}

	/** The browser does not reveal why an upgrade was refused, so ask the server. */
	async #whyRefused() {
		const { words, retryAfter } = await refusalOf(this.url, this.#end.signal);
		if (this.#opened || !['waiting', 'connecting'].includes(this.state)) return;
		if (retryAfter > 0 && this.state === 'waiting') this.#waitToOpen(retryAfter * 1000 * (1 + Math.random() / 4));
		this.#explain(words);
	}

	#explain(words) {
		this.trouble = words || this.trouble;
		this.handlers.state();
	}

	#become(state, reason = '') {
		Object.assign(this, { state, reason });
		this.handlers.state();
	}

	// --- liveness

	#watch() {
		const now = Date.now();
		if (this.#answerBy && now > this.#answerBy) this.#closed();
		else if (!this.#answerBy && now - this.#receivedAt > PING_AFTER) this.#ping(PONG_WITHIN);
	}

	#ping(patience) {
		if (this.state !== 'joined') return;
		this.#answerBy = Math.min(this.#answerBy || Infinity, Date.now() + patience);
		this.#send({ type: 'ping' });
	}

	// --- frames

	#send(frame) {
		if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
	}

	#receive(frame, size) {
		this.#receivedAt = Date.now();
		this.#answerBy = 0;
		switch (frame.type) {
			case 'welcome': return this.#welcome(frame, size);
			case 'message': return this.#messages([frame], true);
			case 'history': {
				this.#history.shift()?.resolve(frame);
				return this.#askHistory();
			}
			case 'error': return this.#refused(frame);
			// An answer although the browser reports no network: for example from a server on the same machine.
			case 'pong': return this.offline && this.#changed({ offline: false });
			case 'status': return this.#changed({ backplane: frame.backplane });
			default: return this.handlers[frame.type]?.(frame); // presence, typing and removed
		}
	}

	#welcome(frame, size) {
		clearTimeout(this.#openTimer);
		clearTimeout(this.#slowTimer);
		for (const socket of this.#retired.splice(0)) socket.close();
		const since = this.cursor;
		this.#joinedAt = Date.now();
		this.outbox.rename(this.room, this.name, frame.name);
		Object.assign(this, { name: frame.name, by: frame.by, offline: false, restarting: false, backplane: 'up', trouble: '' });
		this.#become('joined');
		this.handlers.welcome(frame, Boolean(since));
		this.#messages(frame.messages, Boolean(since));
		this.cursor = frame.last;
		const isFull = frame.messages.length >= RESUME_MOST || size > RESUME_SIZE;
		if (since && frame.more && isFull) this.#fill(frame.messages[0].id, since);
		this.#askHistory();
		this.#changed({});
	}

	/** Fetches missed messages that a welcome did not contain, page by page back to `since`. */
	async #fill(before, since) {
		for (let more = true; more && before; ) {
			const page = await this.history(before);
			const missed = page.messages.filter(({ id }) => compareIds(id, since) > 0);
			this.#messages(missed, true);
			more = page.more && missed.length === page.messages.length;
			before = missed[0]?.id;
		}
	}

	/** Every message passes through here, so a receipt counts however it arrived: live, in a welcome, or in a page. A
	 * message is a receipt only if both `by` and `ref` are this client's own. */
	#messages(messages, news) {
		const receipts = [];
		for (const { id, by, ref } of messages) {
			if (this.cursor && compareIds(id, this.cursor) > 0) this.cursor = id;
			if (ref && by === this.by) receipts.push(ref);
		}
		this.handlers.messages(messages, news);
		this.outbox.remove(...receipts);
		this.pump();
	}

	/** Updates the state, and retries the messages that wait for the change. */
	#changed(values) {
		Object.assign(this, values);
		this.#release();
		this.handlers.state();
		this.pump();
	}

	/** Marks all messages of this room as not in flight. */
	#release() {
		for (const item of this.outbox.of(this.room, this.name)) if (item.state !== 'failed') Object.assign(item, { state: 'waiting', notBefore: 0 });
		this.outbox.changed();
	}

	#refused({ code, message, ref, retry_ms: retryMs }) {
		if (this.state !== 'joined') {
			clearTimeout(this.#openTimer);
			clearTimeout(this.#slowTimer);
			if (!(code in TROUBLE)) return this.#become('refused', code);
			this.#socket.close(); // not the person's fault: retry without asking
			if (code === 'unavailable') this.backplane = 'down';
			this.#closed();
			if (retryMs) this.#waitToOpen(retryMs * (1 + Math.random() / 4));
			return this.#explain(TROUBLE[code] || `The server asks to wait: ${message}.`);
		}
		const passing = code === 'rate_limited' || code === 'unavailable';
		// Each refusal counts, and twenty end the connection, so from now on messages are sent at the server's pace.
		if (code === 'rate_limited') this.#pace = Math.min(PACE_MOST, Math.max(this.#pace * 1.5, retryMs ?? 200));
		const item = this.outbox.get(ref);
		if (!item) return passing && !ref && this.#askHistory(retryMs ?? 2000);
		if (!passing) this.outbox.fail(item, message);
		else Object.assign(item, { state: 'waiting', delay: code, notBefore: Date.now() + (retryMs ?? backOff(item.tries++, 8000)) });
		this.outbox.changed();
		return this.pump();
	}

	// --- the outbox and older messages

	/** Sends the oldest waiting message, if it is time. */
	pump() {
		clearTimeout(this.#pumpTimer);
		if (this.state !== 'joined' || this.offline || this.#socket?.readyState !== WebSocket.OPEN) return;
		const item = this.outbox.of(this.room, this.name).find(({ state }) => state !== 'failed');
		if (!item) return;
		const now = Date.now();
		if (now - this.#nextSend > 10_000) this.#pace = 0;
		if (Math.max(item.notBefore, item.state === 'sending' ? 0 : this.#nextSend) <= now) {
			Object.assign(item, { state: 'sending', notBefore: now + RECEIPT_WITHIN }); // without a receipt by then, it is resent
			this.#nextSend = now + this.#pace;
			this.#send({ type: 'message', text: item.text, ref: item.ref });
			this.outbox.changed();
		}
		this.#pumpTimer = setTimeout(() => this.pump(), Math.max(item.notBefore, this.#nextSend) - now);
	}

	#askHistory(wait = 0) {
		clearTimeout(this.#historyTimer);
		const [first] = this.#history;
		const ask = () => this.#send({ type: 'history', before: first.before, limit: 100 });
		if (first && this.state === 'joined') this.#historyTimer = setTimeout(ask, wait);
	}
}
