// What reaches a person who is looking elsewhere: the number in the title and on the icon, notifications (off until
// asked for), and words for screen readers.

import { element, isolated, listen, mentions } from './text.js';

export class Alerts {
	#toSay = [];
	#timer;

	/** `choice`: the select with off, mentions and all; `log`: the live region. */
	constructor(icon, choice, hint, log, room, store) {
		Object.assign(this, { icon, choice, log, room, plain: icon.href });
		this.unread(0);
		if (window.Notification?.permission === 'granted') choice.value = store.get('notify') ?? 'off';
		listen(choice, 'change', async () => {
			hint.textContent = '';
			if (choice.value !== 'off' && (await window.Notification?.requestPermission()) !== 'granted') {
				choice.value = 'off';
				hint.textContent = 'The browser does not allow notifications from this page.';
			}
			store.set('notify', choice.value);
		});
	}

	unread(count) {
		if (count === this.count) return;
		this.count = count;
		document.title = `${count ? `(${count}) ` : ''}#${this.room} · Bobbin`;
		this.icon.href = count ? badge(Math.min(count, 99)) : this.plain;
	}

	/** Messages from others. */
	came(messages, me) {
		this.#say(messages.map(({ name, text }) => `${name}: ${text}`));
		if (document.hasFocus()) return;
		const wanted = { off: [], all: messages, mentions: messages.filter(({ text }) => mentions(text, me)) }[this.choice.value];
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
			this.choice.value = 'off'; // Android's Chrome wants a service worker
		}
	}

	/** Read out by screen readers at the next pause, a burst summed up; then taken away, so that nobody finds it twice. */
	#say(lines) {
		this.#toSay.push(...lines);
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => {
			const said = this.#toSay.splice(0);
			const nodes = (said.length > 3 ? [`${said.length} new messages`] : said).map((line) => element('p', '', line));
			this.log.append(...nodes);
			setTimeout(() => nodes.forEach((node) => node.remove()), 15_000);
		}, 300);
	}
}

/** The icon with a number, as a data: address: the one thing besides 'self' that the page's policy lets an image be. */
function badge(count) {
	const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="#b02a37"/><text x="16" y="23" font-size="20" text-anchor="middle" fill="#fff">${count}</text></svg>`;
	return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}
