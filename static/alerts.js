// Notifies a person who is looking elsewhere: the number in the title and on the icon, notifications (off by default),
// and announcements for screen readers.

import { count, element, isolated, listen } from './base.js';
import { mentions, nameIndex } from './text.js';

const GATHER_PAUSE = 300; // announcements are gathered until none has arrived for this time,
const GATHER_MOST = 1500; // but no longer than this
const REMOVE_AFTER = 15_000;

const NOT_ALLOWED = 'The browser does not allow notifications from this page.';
const NOT_SHOWN = 'This browser does not show notifications from web pages.';

export class Alerts {
	#toSay = [];
	#firstAt;
	#timer;

	/** `choice`: the select with off, mentions and all; `log`: the live region. */
	constructor({ icon, choice, hint, log }, store) {
		Object.assign(this, { icon, choice, hint, log, store, plain: icon.href });
		const wanted = store.get('notify', 'off');
		if (['mentions', 'all'].includes(wanted)) {
			if (window.Notification?.permission === 'granted') choice.value = wanted;
			else this.#off(window.Notification ? NOT_ALLOWED : NOT_SHOWN);
		}
		listen(choice, 'change', async () => {
			hint.textContent = '';
			store.set('notify', choice.value);
			if (choice.value === 'off') return;
			if (!window.Notification) this.#off(NOT_SHOWN);
			else if ((await Notification.requestPermission()) !== 'granted') this.#off(NOT_ALLOWED);
		});
	}

	#off(why) {
		this.choice.value = 'off';
		this.hint.textContent = why;
		this.store.set('notify', 'off');
	}

	enter(room) {
		this.room = room;
		this.number = null;
		this.unread(0);
	}

	/** `andMore`: older unread messages are not loaded. */
	unread(number, andMore = false) {
		const shown = number ? `${number}${andMore ? '+' : ''}` : '';
		if (shown === this.number) return;
		this.number = shown;
		document.title = `${shown && `(${shown}) `}#${this.room} · Bobbin`;
		this.icon.href = number ? badge(Math.min(number, 99)) : this.plain;
	}

	/** Announces messages from others. */
	announce(messages, me) {
		this.#toScreenReader(messages.map(({ name, text }) => `${name}: ${text}`));
		if (document.hasFocus()) return;
		const index = nameIndex([me]);
		const wanted = { off: [], all: messages, mentions: messages.filter(({ text }) => mentions(text, index)) }[this.choice.value];
		if (wanted.length) this.#notify(wanted.at(-1));
	}

	#notify({ name, text }) {
		try {
			const title = `${isolated(name)} in #${this.room}`;
			const note = new Notification(title, { body: text.slice(0, 200), icon: this.plain, tag: this.room });
			note.onclick = () => {
				window.focus();
				note.close();
			};
		} catch {
			this.#off(NOT_SHOWN); // Chrome on Android requires a service worker
		}
	}

	/** Called when a message is removed. */
	takeBack() {
		this.#toSay.length = 0;
		this.log.replaceChildren();
	}

	/** Has screen readers announce lines, a burst as one summary. They are removed so that nobody finds them on the page. */
	#toScreenReader(lines) {
		if (!lines.length) return;
		if (!this.#toSay.length) this.#firstAt = Date.now();
		this.#toSay.push(...lines);
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => {
			const said = this.#toSay.splice(0);
			const nodes = (said.length > 3 ? [count(said.length, 'new message')] : said).map((line) => element('p', '', line));
			this.log.append(...nodes);
			setTimeout(() => nodes.forEach((node) => node.remove()), REMOVE_AFTER);
		}, Math.min(GATHER_PAUSE, this.#firstAt + GATHER_MOST - Date.now()));
	}
}

/** The icon with a number, as a data: URL: besides 'self', the page's policy allows no other image source. */
function badge(number) {
	const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="#b02a37"/><text x="16" y="23" font-size="20" text-anchor="middle" fill="#fff">${number}</text></svg>`;
	return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}
