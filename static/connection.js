// The WebSocket's whole life: joining, coming back with the last id seen, noticing a dead line, and the outbox that
// keeps each message until its receipt. It knows nothing of the page: what happens is told to `handlers`.
//
// Two rules make it dependable. A message leaves the outbox only with its receipt (or a refusal that is final), and is
// sent again under the same `ref` until then. And only the outbox's head is in flight, so the order of writing is the
// order of arrival whatever is refused, lost or late; at a human's pace that costs nothing.

const PING_AFTER = 10_000; // a quiet line is asked for a sign of life after this long,
const PONG_WITHIN = 8_000; // and given up when none came within this
const WAKE_PONG_WITHIN = 3_000; // after sleep or a change of network there is reason to doubt, so less patience
const OPEN_WITHIN = 10_000;
const RECEIPT_WITHIN = 6_000;
const RETRY_MOST = 15_000;
const PAGE = 100;
const RESUME_MOST = 500; // the most a `welcome` carries; when it is full, older missed messages are paged in
const FILL_PAGES = 60;

/** A key nobody else will choose. `randomUUID` would be nicer, but is missing on plain http. */
export function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Ids are `milliseconds-sequence`; they grow strictly within a room. */
export function compareIds(a, b) {
  const [aTime, aSeq] = a.split('-').map(Number);
  const [bTime, bSeq] = b.split('-').map(Number);
  return aTime - bTime || aSeq - bSeq;
}

const backOff = (tries, most = RETRY_MOST) => Math.min(most, 500 * 2 ** tries) * (0.5 + Math.random() / 2);

export class Connection {
  /**
   * state: idle · connecting · joined · waiting (a retry is set) · restarting (the same, the server having said so) ·
   *        refused (the join was; ask the person) · elsewhere (another tab took the place) · stopped (the server said why)
   */
  state = 'idle';
  offline = !navigator.onLine;
  backplane = 'up';
  outbox = []; // oldest first: { ref, text, at, state: waiting | sending | failed, reason, tries, notBefore }
  retryAt = 0;

  #socket = null;
  #retired = new Set(); // sockets given up but not closed: closing frees the place, so that waits for the next welcome
  #cursor = null; // the newest id seen: what `since` says
  #tries = 0;
  #joinedAt = 0;
  #heard = 0;
  #pinged = 0;
  #patience = PONG_WITHIN;
  #retryTimer = 0;
  #openTimer = 0;
  #pumpTimer = 0;
  #history = []; // requests, oldest first; the head is in flight, and is asked again after a reconnect
  #historyTimer = 0;

  constructor(room, client, handlers) {
    this.client = client;
    this.handlers = handlers;
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
    this.url = `${scheme}//${location.host}/ws/${room}`;
    setInterval(() => this.#watch(), 1000);
    addEventListener('offline', () => this.#wentOffline());
    addEventListener('online', () => this.#cameOnline());
    addEventListener('pageshow', (event) => event.persisted && this.wake());
    document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && this.wake());
  }

  /** Join, or join again after a refusal, under this name. */
  join(name, passphrase) {
    this.name = name;
    this.passphrase = passphrase;
    if (this.state === 'refused' && this.#socket?.readyState === WebSocket.OPEN) this.#sendJoin();
    else this.#open();
  }

  /** Leave on purpose: the close frame frees the place at once. */
  leave() {
    clearTimeout(this.#retryTimer);
    this.#socket?.close(1000);
    this.#socket = null;
    this.#cursor = null;
    this.#become('idle');
  }

  /** Do not wait for the next try; on a line that looks alive, make sure that it is. */
  wake() {
    if (this.state === 'waiting' || this.state === 'restarting') this.#open();
    else if (this.state === 'joined' && Date.now() - this.#heard > 3000) this.#ping(WAKE_PONG_WITHIN);
  }

  /** Queue a message; it is told to `handlers.outbox` at once and goes out when it can. */
  say(text) {
    this.outbox.push({ ref: randomKey(), text, at: Date.now(), state: 'waiting', tries: 0, notBefore: 0 });
    this.#pump();
    this.handlers.outbox();
  }

  /** Messages that a reload interrupted: the same refs, so what did arrive is not said twice. */
  restore(items) {
    for (const { ref, text, at, state, reason } of items) {
      this.outbox.push({ ref, text, at, state: state === 'failed' ? state : 'waiting', reason, tries: 0, notBefore: 0 });
    }
    this.handlers.outbox();
  }

  /** Try a refused message again, as a new one at the end. */
  retry(ref) {
    const item = this.discard(ref);
    if (item) this.say(item.text);
  }

  discard(ref) {
    const at = this.outbox.findIndex((item) => item.ref === ref);
    const [item] = at < 0 ? [] : this.outbox.splice(at, 1);
    this.#pump();
    this.handlers.outbox();
    return item;
  }

  typing(active) {
    if (this.state === 'joined' && !this.offline) this.#send({ type: 'typing', active });
  }

  /** A page of messages older than `before`; outlives a cut, since it is asked again after the next welcome. */
  history(before) {
    return new Promise((resolve) => {
      this.#history.push({ before, resolve });
      if (this.#history.length === 1) this.#askHistory();
    });
  }

  // --- opening and closing

  #open() {
    clearTimeout(this.#retryTimer);
    this.#retire();
    this.#become('connecting');
    const socket = new WebSocket(this.url, 'bobbin.v1');
    this.#socket = socket;
    this.#openTimer = setTimeout(() => this.#lost(), OPEN_WITHIN);
    socket.onopen = () => socket === this.#socket && this.#sendJoin();
    socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(data);
    socket.onclose = ({ code }) => {
      this.#retired.delete(socket);
      if (socket === this.#socket) this.#closed(code);
    };
  }

  #sendJoin() {
    const join = { type: 'join', name: this.name, client: this.client };
    if (this.#cursor) join.since = this.#cursor;
    if (this.passphrase) join.passphrase = this.passphrase;
    this.#send(join);
  }

  /** The line is dead as far as we can tell: try anew, without a close frame that would make us leave. */
  #lost() {
    this.#retire();
    this.#closed(1006);
  }

  #retire() {
    clearTimeout(this.#openTimer);
    if (this.#socket && this.#socket.readyState !== WebSocket.CLOSED) this.#retired.add(this.#socket);
    this.#socket = null;
  }

  #closed(code) {
    const was = this.state;
    clearTimeout(this.#openTimer);
    clearTimeout(this.#historyTimer);
    clearTimeout(this.#pumpTimer);
    this.#socket = null;
    if (code === 4001) return this.#become('elsewhere');
    if (was === 'refused') return code === 4003 && this.#become('refused', 'locked'); // else: the form waits, the line need not
    if (code === 4003) return this.#become('stopped', 'locked');
    if (code === 1008) return this.#become('stopped', 'policy');
    // A line that held for a while starts over with short waits; one that is cut again at once does not.
    if (Date.now() - this.#joinedAt > 5000) this.#tries = 0;
    const wait = code === 1012 ? Math.random() * 3000 : backOff(this.#tries++);
    this.#tryIn(wait, code === 1012 || (was === 'restarting') ? 'restarting' : 'waiting');
  }

  #tryIn(wait, state) {
    this.retryAt = Date.now() + wait;
    this.#retryTimer = setTimeout(() => this.#open(), wait);
    this.#become(state);
  }

  #wentOffline() {
    this.offline = true;
    this.handlers.state();
  }

  /** A network that came back is often another one, on which the old line is silently dead: replace it at once. */
  #cameOnline() {
    this.offline = false;
    if (['connecting', 'joined', 'waiting', 'restarting'].includes(this.state)) this.#open();
    else this.handlers.state();
  }

  #become(state, reason = '') {
    this.state = state;
    this.reason = reason;
    this.handlers.state();
  }

  // --- signs of life

  #watch() {
    if (this.state !== 'joined') return;
    const now = Date.now();
    if (this.#pinged && now - this.#pinged > this.#patience) this.#lost();
    else if (!this.#pinged && now - this.#heard > PING_AFTER) this.#ping(PONG_WITHIN);
  }

  #ping(patience) {
    this.#patience = patience;
    this.#pinged ||= Date.now();
    this.#send({ type: 'ping' });
  }

  // --- frames

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #receive(data) {
    this.#heard = Date.now();
    this.#pinged = 0;
    const frame = JSON.parse(data);
    switch (frame.type) {
      case 'welcome': return this.#welcome(frame);
      case 'message': return this.#messages([frame], 'live');
      case 'history': return this.#gotHistory(frame);
      case 'error': return this.#refused(frame);
      case 'status': return this.#backplane(frame.backplane);
      case 'presence': return this.handlers.presence(frame);
      case 'typing': return this.handlers.typing(frame);
    }
  }

  #welcome(frame) {
    clearTimeout(this.#openTimer);
    for (const socket of this.#retired) socket.close();
    this.#retired.clear();
    const since = this.#cursor;
    this.name = frame.name;
    this.#joinedAt = Date.now();
    this.backplane = 'up';
    this.offline = !navigator.onLine;
    for (const item of this.outbox) if (item.state === 'sending') Object.assign(item, { state: 'waiting', notBefore: 0 });
    this.#become('joined');
    this.handlers.welcome(frame, since);
    this.#messages(frame.messages, since ? 'missed' : 'first');
    this.#cursor = frame.last;
    if (since && frame.more && frame.messages.length >= RESUME_MOST) this.#fill(frame.messages[0].id, since);
    if (this.#history.length) this.#askHistory();
    this.#pump();
  }

  /** More was missed than one welcome carries: page back until the two ends meet. */
  async #fill(before, since) {
    for (let page = 0; page < FILL_PAGES; page++) {
      const { messages, more } = await this.history(before);
      this.#messages(messages.filter((message) => compareIds(message.id, since) > 0), 'missed');
      if (!more || !messages.length || compareIds(messages[0].id, since) <= 0) return;
      before = messages[0].id;
    }
    this.handlers.hole(before);
  }

  /** Every message comes through here, so a receipt counts however it came: live, in a welcome, in a page. */
  #messages(messages, how) {
    for (const { id, ref } of messages) {
      if (how === 'live' && (!this.#cursor || compareIds(id, this.#cursor) > 0)) this.#cursor = id;
      const at = ref ? this.outbox.findIndex((item) => item.ref === ref) : -1;
      if (at >= 0) this.outbox.splice(at, 1);
    }
    this.handlers.messages(messages, how);
    this.#pump();
  }

  #backplane(state) {
    this.backplane = state;
    if (state === 'up') for (const item of this.outbox) item.notBefore = 0;
    this.handlers.state();
    this.#pump();
  }

  #refused(frame) {
    if (this.state === 'connecting' || this.state === 'refused') return this.#joinRefused(frame);
    const item = this.outbox.find(({ ref }) => ref === frame.ref);
    if (item) return this.#messageRefused(item, frame);
    const passing = frame.code === 'rate_limited' || frame.code === 'unavailable';
    if (!frame.ref && passing && this.#history.length) this.#askHistory(frame.retry_ms ?? 2000);
  }

  #joinRefused(frame) {
    clearTimeout(this.#openTimer);
    if (frame.code !== 'unavailable') return this.#become('refused', frame.code);
    // Not the person's doing, so not the person's problem: close, wait, try again.
    this.backplane = 'down';
    this.#socket.close();
    this.#closed(1006);
  }

  #messageRefused(item, { code, message, retry_ms: retryMs }) {
    clearTimeout(this.#pumpTimer);
    if (code === 'rate_limited' || code === 'unavailable') {
      item.state = 'waiting';
      item.reason = code;
      item.notBefore = Date.now() + (retryMs ?? backOff(item.tries++, 8000));
    } else {
      item.state = 'failed';
      item.reason = message || code;
    }
    this.#pump();
    this.handlers.outbox();
  }

  // --- the outbox

  #pump() {
    clearTimeout(this.#pumpTimer);
    const item = this.outbox.find(({ state }) => state !== 'failed');
    if (!item || this.state !== 'joined' || this.offline) return;
    const now = Date.now();
    if (item.notBefore <= now) {
      item.state = 'sending';
      item.notBefore = now + RECEIPT_WITHIN; // no receipt by then: once more
      this.#send({ type: 'message', text: item.text, ref: item.ref });
    }
    this.#pumpTimer = setTimeout(() => this.#pump(), item.notBefore - now);
  }

  // --- older messages

  #askHistory(wait = 0) {
    clearTimeout(this.#historyTimer);
    this.#historyTimer = setTimeout(() => {
      if (!this.#history.length || this.state !== 'joined') return;
      this.#send({ type: 'history', before: this.#history[0].before, limit: PAGE });
      this.#askHistory(10_000); // asked again should no answer come
    }, wait);
  }

  #gotHistory({ messages, more }) {
    clearTimeout(this.#historyTimer);
    this.#history.shift()?.resolve({ messages, more });
    if (this.#history.length) this.#askHistory();
  }
}
