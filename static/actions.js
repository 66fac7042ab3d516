// Actions other than writing: inviting, creating a private room, saving the conversation, and replying to or copying a
// message.

import { button, element, listen, pathOf, privateRoom } from './base.js';
import { reachable } from './rows.js';

const SAID_FOR = 3000;
const QUOTE_MOST = 300;

/** Copies text. Without https there is no clipboard API, only a deprecated command. */
async function copyText(text) {
	try {
		await navigator.clipboard.writeText(text);
		return true;
	} catch {
		const box = element('textarea', 'visually-hidden');
		box.value = text;
		(document.querySelector('dialog[open]') ?? document.body).append(box);
		const focused = document.activeElement;
		box.select();
		const done = document.execCommand('copy');
		box.remove();
		focused?.focus();
		return done;
	}
}

/** Shows the result on the button for a moment. */
function answer(target, words) {
	const before = (target.dataset.label ??= target.textContent);
	target.textContent = words;
	setTimeout(() => (target.textContent = before), SAID_FOR);
}

/** "Invite", "New private room", "Save as text". `on`: room() · go(room) · text(). */
export function roomActions({ invite, newRoom, save }, on) {
	listen(invite, 'click', async () => {
		const link = location.origin + pathOf(on.room());
		if (await copyText(link)) answer(invite, 'Link copied');
		else prompt('The link to this room:', link);
	});
	listen(newRoom, 'click', () => on.go(privateRoom()));
	listen(save, 'click', () => {
		const link = element('a');
		link.href = URL.createObjectURL(new Blob([on.text()], { type: 'text/plain' }));
		link.download = `${on.room()}.txt`;
		link.click();
		setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
	});
}

/** The buttons of the message that is hovered or focused: one set for the whole list. Arrow keys move between messages,
 * Escape returns to the text box. `on`: message(row) · reply(text) · retry(ref) · discard(ref) · box. */
export class MessageActions {
	#tools = element('div', 'tools', button('', 'Reply', { tool: 'reply' }), button('', 'Copy', { tool: 'copy' }));
	#current;

	constructor(scroller, list, on) {
		Object.assign(this, { scroller, list, on });
		listen(list, 'pointerover', ({ target, pointerType }) => pointerType === 'mouse' && this.#show(target.closest('.message')));
		listen(list, 'focusin', ({ target }) => this.#show(target.closest('.message')));
		listen(list, 'click', ({ target }) => this.#clicked(target));
		listen(scroller, 'keydown', (event) => this.#key(event));
	}

	#show(row) {
		if (!row || row === this.#current || !row.dataset.id) return;
		if (this.#current) reachable(this.#current, false);
		row.append(this.#tools);
		reachable(row, true);
		this.#current = row;
	}

	#clicked(target) {
		const { dataset, classList, previousElementSibling: body } = target;
		if (dataset.retry) this.on.retry(dataset.retry);
		if (dataset.discard) this.on.discard(dataset.discard);
		if (classList.contains('unfold')) target.textContent = body.classList.toggle('folded') ? 'Show all' : 'Show less';
		if (classList.contains('copy')) this.#copy(target, body.textContent);
		const message = dataset.tool && this.on.message(target.closest('.message'));
		if (!message) return;
		if (dataset.tool === 'copy') this.#copy(target, message.text);
		else this.on.reply(quote(message));
	}

	async #copy(target, text) {
		answer(target, (await copyText(text)) ? 'Copied' : 'Not allowed');
	}

	#key(event) {
		const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
		if (event.key === 'Escape') return this.on.box.focus();
		if (!step || event.target.closest('pre')) return undefined;
		const rows = [...this.list.querySelectorAll('.message')];
		const at = rows.indexOf(document.activeElement.closest('.message'));
		const { bottom } = this.scroller.getBoundingClientRect();
		const next = at < 0 ? rows.findLast((row) => row.getBoundingClientRect().bottom <= bottom + 1) : rows[at + step];
		event.preventDefault();
		return next ? next.focus() : step > 0 && this.on.box.focus();
	}
}

/** A message as the beginning of a reply: mentions its author, and quotes its text without earlier quotes. */
function quote({ name, text }) {
	const said = text.split('\n').filter((line) => !line.startsWith('>')).join('\n').trim() || text;
	const short = said.length > QUOTE_MOST ? `${[...said.slice(0, QUOTE_MOST)].slice(0, -1).join('')}…` : said;
	return `${`@${name}: ${short}`.split('\n').map((line) => `> ${line}`).join('\n')}\n`;
}
