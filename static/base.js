// Used by all modules: DOM helpers, the page's addresses, and storage that may be missing, full or damaged.

export const listen = (target, name, act, options) => target.addEventListener(name, act, options);

export const onSubmit = (form, act) =>
	listen(form, 'submit', (event) => {
		event.preventDefault();
		act(event);
	});

export const $ = (id) => document.getElementById(id);

/** An element with a class and children; strings become text nodes. */
export function element(tag, className = '', ...children) {
	const node = document.createElement(tag);
	node.className = className;
	node.append(...children);
	return node;
}

/** A button that does not submit a form. */
export function button(className, label, data = {}) {
	const node = element('button', className, label);
	node.type = 'button';
	Object.assign(node.dataset, data);
	return node;
}

/** Compares ids, which are `milliseconds-sequence` and grow strictly within a room. */
export function compareIds(a, b) {
	const [aTime, aSeq] = a.split('-');
	const [bTime, bSeq] = b.split('-');
	return aTime - bTime || aSeq - bSeq;
}

/** A name within a sentence, isolated so that it cannot change the direction of the text around it. */
export const isolated = (name) => `\u2068${name}\u2069`;

/** "1 message", "2,000 messages". */
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString('en')} ${number === 1 ? one : many}`;

/** A unique key. `randomUUID` requires https. */
export const randomKey = () =>
	Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36).padStart(7, '0')).join('');

// --- addresses

/** The page's base path: "/", or the sub-path it is served under. */
export const BASE = new URL('.', import.meta.url).pathname;

export const ROOM = /^[a-z0-9][a-z0-9_-]{0,47}$/;
const PRIVATE = 'private-'; // the server asks search engines not to index these

export const roomAt = (path) => path.slice(BASE.length).match(/^r\/([^/]+)/)?.[1] ?? 'lobby';
export const pathOf = (room) => BASE + (room === 'lobby' ? '' : `r/${room}`);

/** An unguessable room name, with 120 random bits. */
export const privateRoom = () =>
	PRIVATE + Array.from(crypto.getRandomValues(new Uint8Array(24)), (byte) => 'abcdefghijklmnopqrstuvwxyz234567'[byte % 32]).join('');

/** Why the server refuses a WebSocket at this address: a plain request with `origin` is checked like an upgrade, and
 * refused in the same words. */
export async function refusalOf(url, signal) {
	try {
		const within = AbortSignal.any([signal, AbortSignal.timeout(2500)]);
		const answer = await fetch(`${url}?origin=${location.origin}`, { cache: 'no-store', signal: within });
		if (answer.status === 426) return { words: 'The server answers, but something in between blocks WebSockets.' };
		const isLine = answer.headers.get('content-type')?.startsWith('text/plain');
		const line = isLine ? (await answer.text()).trim().slice(0, 200) : '';
		return { words: `The server refused the connection: ${line || `status ${answer.status}`}.`, retryAfter: Number(answer.headers.get('retry-after')) };
	} catch {
		return { words: 'The server cannot be reached.' };
	}
}

// --- storage

/** The browser's storage (`localStorage`) or the tab's (`sessionStorage`). If it is forbidden or full, values last only
 * as long as the page. A value whose type differs from that of its fallback counts as missing. */
export class Store {
	#memory = new Map();
	#prefix = BASE === '/' ? 'bobbin.' : `bobbin${BASE}`;

	constructor(kind) {
		this.kind = kind;
	}

	get(key, fallback) {
		let value = this.#memory.get(key);
		try {
			value ??= JSON.parse(window[this.kind].getItem(this.#prefix + key));
		} catch {
			// forbidden, or not JSON
		}
		const isRight = value != null && typeof value === typeof fallback && Array.isArray(value) === Array.isArray(fallback);
		return isRight ? value : fallback;
	}

	/** Sets a key; `undefined` removes it. Returns whether the value outlives the page. */
	set(key, value) {
		this.#memory.delete(key);
		try {
			if (value === undefined) window[this.kind].removeItem(this.#prefix + key);
			else window[this.kind].setItem(this.#prefix + key, JSON.stringify(value));
			return true;
		} catch {
			if (value !== undefined) this.#memory.set(key, value);
			return false;
		}
	}

	/** The keys that start with `start`. */
	keys(start) {
		const found = [...this.#memory.keys()];
		try {
			for (const key of Object.keys(window[this.kind])) if (key.startsWith(this.#prefix)) found.push(key.slice(this.#prefix.length));
		} catch {
			// forbidden
		}
		return found.filter((key) => key.startsWith(start));
	}

	/** Calls `act` with the key when another tab changes one. */
	watch(act) {
		listen(window, 'storage', ({ key }) => key?.startsWith(this.#prefix) && act(key.slice(this.#prefix.length)));
	}
}
