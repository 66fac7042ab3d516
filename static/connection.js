// The WebSocket's whole life: joining, coming back with the last id seen, noticing a dead line, and the outbox that
// keeps each message until its receipt. It knows nothing of the page: what happens is told to `handlers`.
//
// Two rules make it dependable. A message leaves the outbox only with its receipt or a final refusal; until then it is
// sent again under the same `ref`. And only the outbox's head is in flight, so the order of writing is the order of
// arrival whatever is refused, lost or late; at a human's pace that costs nothing.

const PING_AFTER = 10_000; // a quiet line is asked for a sign of life after this long,
const PONG_WITHIN = 8000; // and given up when none came within this;
const DOUBT_WITHIN = 3000; // after sleep or a change of network there is less patience
const OPEN_WITHIN = 10_000;
const RECEIPT_WITHIN = 6000;
const RESUME_MOST = 500; // messages in a `welcome`: where it is full, more were missed

/** A key nobody else will choose. `randomUUID` needs https. */
export const randomKey = () =>
	Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36).padStart(7, '0')).join('');

/** Ids are `milliseconds-sequence`, and grow strictly within a room. */
export function compareIds(a, b) {
	const [aTime, aSeq] = a.split('-');
	const [bTime, bSeq] = b.split('-');
	return aTime - bTime || aSeq - bSeq;
}

const backOff = (tries, most) => Math.min(most, 500 * 2 ** tries) * (0.5 + Math.random() / 2);

export class Connection {
	/** idle · connecting · joined · waiting (to try again) · refused (ask the person) · elsewhere (in another tab) · stopped */
	state = 'idle';
	reason = '';
	offline = !navigator.onLine; // the browser says so, and nothing since has shown otherwise
	restarting = false;
	backplane = 'up';
	outbox = []; // oldest first: { ref, text, at, state: waiting | sending | failed, reason, tries, notBefore }

	#socket = null;
	#retired = []; // given up but not closed: a close frame frees the place, so it waits until the next welcome
	#cursor; // the newest id seen: what `since` says
	#tries = 0;
	#joinedAt;
	#heardAt = 0;
	#answerBy = 0; // a ping is out
	#history = []; // requests, oldest first; the head is in flight
	#openTimer; // to give up opening, or to try again
	#pumpTimer;
	#historyTimer;

	/** `handlers`: state · outbox · welcome(frame, resumed) · messages(list, news) · presence(frame) · typing(frame) */
	constructor(room, client, handlers) {
		Object.assign(this, { client, handlers });
		this.url = `${location.origin.replace('http', 'ws')}/ws/${room}`;
		setInterval(() => this.#watch(), 1000);
		addEventListener('offline', () => {
			this.offline = true;
			this.#ping(DOUBT_WITHIN);
			handlers.state();
		});
		addEventListener('online', () => {
			this.offline = false;
			// It is often another network, on which the old line is silently dead: replace it at once.
			if (this.trying) this.#open();
		});
		document.addEventListener('visibilitychange', () => document.hidden || this.wake());
	}

	/** Joined, or about to be. */
	get trying() {
		return ['connecting', 'joined', 'waiting'].includes(this.state);
	}

	/** Join, or join again after a refusal. */
	join(name, passphrase) {
		Object.assign(this, { name, passphrase });
		if (this.state === 'refused' && this.#socket) this.#sendJoin();
		else this.#open();
	}

	/** Leave on purpose: the close frame frees the place at once. */
	leave() {
		const socket = this.#socket;
		this.#retire();
		socket?.close(1000);
		this.#become('idle');
	}

	/** Try now; on a line that looks alive, make sure that it is. */
	wake() {
		if (this.state === 'waiting') this.#open();
		else if (Date.now() - this.#heardAt > DOUBT_WITHIN) this.#ping(DOUBT_WITHIN);
	}

	/** Queue a message; it goes out when it can. */
	say(text) {
		this.restore([{ text, ref: randomKey(), at: Date.now() }]);
		this.#pump();
	}

	/** What a reload interrupted: under the same refs, so what did arrive is not said twice. */
	restore(items) {
		this.outbox.push(...items.map((item) => ({ state: 'waiting', ...item, tries: 0, notBefore: 0 })));
		this.handlers.outbox();
	}

	/** Take a message out, and give back its text. */
	discard(ref) {
		const { text } = this.outbox.find((item) => item.ref === ref);
		this.outbox = this.outbox.filter((item) => item.ref !== ref);
		this.handlers.outbox();
		return text;
	}

	typing(active) {
		if (this.state === 'joined') this.#send({ type: 'typing', active });
	}

	/** A page of messages older than `before`; outlives a cut, being asked for again after the next welcome. */
	history(before) {
		return new Promise((resolve) => {
			if (this.#history.push({ before, resolve }) === 1) this.#askHistory();
		});
	}

	// --- opening and closing

	#open() {
		this.#retire();
		this.#become('connecting');
		const socket = new WebSocket(this.url, 'bobbin.v1');
		const current = (act) => (event) => socket === this.#socket && act(event);
		this.#socket = socket;
		this.#openTimer = setTimeout(() => this.#closed(), OPEN_WITHIN);
		socket.onopen = current(() => this.#sendJoin());
		socket.onmessage = current(({ data }) => this.#receive(JSON.parse(data)));
		socket.onclose = current(({ code }) => this.#closed(code));
	}

	#sendJoin() {
		const { name, client, passphrase } = this;
		this.#send({ type: 'join', name, client, passphrase, since: this.#cursor });
	}

	#retire() {
		clearTimeout(this.#openTimer);
		if (this.#socket?.readyState < WebSocket.CLOSING) this.#retired.push(this.#socket);
		this.#socket = null;
		this.#answerBy = 0;
	}

	/** The line is gone, or (without a code) given up. */
	#closed(code) {
		this.#retire();
		if (code === 4001) return this.#become('elsewhere');
		if (code === 4003) return this.#become(this.state === 'refused' ? 'refused' : 'stopped', 'locked');
		if (this.state === 'refused') return undefined; // the person is being asked; the answer opens a line
		if (code === 1008) return this.#become('stopped', 'policy');
		// After a line that held, waits start short again; not after one that was cut at once.
		if (this.state === 'joined' && Date.now() - this.#joinedAt > 5000) this.#tries = 0;
		this.restarting ||= code === 1012;
		const wait = code === 1012 ? Math.random() * 3000 : backOff(this.#tries++, 15_000);
		this.#openTimer = setTimeout(() => this.#open(), wait);
		return this.#become('waiting');
	}

	#become(state, reason = '') {
		Object.assign(this, { state, reason });
		this.handlers.state();
	}

	// --- signs of life

	#watch() {
		const now = Date.now();
		if (this.#answerBy && now > this.#answerBy) this.#closed();
		else if (!this.#answerBy && now - this.#heardAt > PING_AFTER) this.#ping(PONG_WITHIN);
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

	#receive(frame) {
		this.#heardAt = Date.now();
		this.#answerBy = 0;
		switch (frame.type) {
			case 'welcome': return this.#welcome(frame);
			case 'message': return this.#messages([frame], true);
			case 'history': {
				this.#history.shift()?.resolve(frame);
				return this.#askHistory();
			}
			case 'error': return this.#refused(frame);
			// An answer where the browser says there is no network: a server on one's own machine, say.
			case 'pong': return this.offline && this.#changed({ offline: false });
			case 'status': return this.#changed({ backplane: frame.backplane });
			default: return this.handlers[frame.type]?.(frame); // presence and typing
		}
	}

	#welcome(frame) {
		clearTimeout(this.#openTimer);
		for (const socket of this.#retired.splice(0)) socket.close();
		const since = this.#cursor;
		this.#joinedAt = Date.now();
		Object.assign(this, { name: frame.name, offline: false, restarting: false, backplane: 'up' });
		this.#become('joined');
		this.handlers.welcome(frame, Boolean(since));
		this.#messages(frame.messages, Boolean(since));
		this.#cursor = frame.last;
		if (since && frame.more && frame.messages.length >= RESUME_MOST) this.#fill(frame.messages[0].id, since);
		this.#askHistory();
		this.#changed({});
	}

	/** More was missed than a welcome carries: page back until the two ends meet. */
	async #fill(before, since) {
		for (let more = true; more; ) {
			const page = await this.history(before);
			const missed = page.messages.filter(({ id }) => compareIds(id, since) > 0);
			this.#messages(missed, true);
			more = page.more && missed.length === page.messages.length;
			before = missed[0]?.id;
		}
	}

	/** Every message comes through here, so a receipt counts however it came: live, in a welcome, in a page. */
	#messages(messages, news) {
		for (const { id, ref } of messages) {
			if (this.#cursor && compareIds(id, this.#cursor) > 0) this.#cursor = id;
			if (this.outbox.some((item) => item.ref === ref)) this.discard(ref);
		}
		this.handlers.messages(messages, news);
		this.#pump();
	}

	/** Things look up or down: what waits for them is tried now. */
	#changed(values) {
		Object.assign(this, values);
		for (const item of this.outbox) if (item.state !== 'failed') Object.assign(item, { state: 'waiting', notBefore: 0 });
		this.handlers.state();
		this.#pump();
	}

	#refused({ code, message, ref, retry_ms: retryMs }) {
		const passing = code === 'rate_limited' || code === 'unavailable';
		if (this.state !== 'joined') {
			clearTimeout(this.#openTimer);
			if (!passing) return this.#become('refused', code);
			this.#socket.close(); // not the person's doing, so not the person's problem: try again later
			this.backplane = 'down';
			return this.#closed();
		}
		const item = this.outbox.find((one) => one.ref === ref);
		if (!item) return passing && !ref && this.#askHistory(retryMs ?? 2000);
		if (passing) Object.assign(item, { state: 'waiting', reason: code, notBefore: Date.now() + (retryMs ?? backOff(item.tries++, 8000)) });
		else Object.assign(item, { state: 'failed', reason: message });
		this.handlers.outbox();
		return this.#pump();
	}

	// --- the outbox and older messages

	#pump() {
		clearTimeout(this.#pumpTimer);
		const item = this.outbox.find(({ state }) => state !== 'failed');
		if (!item || this.state !== 'joined' || this.offline) return;
		const now = Date.now();
		if (item.notBefore <= now) {
			Object.assign(item, { state: 'sending', notBefore: now + RECEIPT_WITHIN }); // no receipt by then: once more
			this.#send({ type: 'message', text: item.text, ref: item.ref });
			this.handlers.outbox();
		}
		this.#pumpTimer = setTimeout(() => this.#pump(), item.notBefore - now);
	}

	#askHistory(wait = 0) {
		clearTimeout(this.#historyTimer);
		const [first] = this.#history;
		const ask = () => this.#send({ type: 'history', before: first.before, limit: 100 });
		if (first && this.state === 'joined') this.#historyTimer = setTimeout(ask, wait);
	}
}
