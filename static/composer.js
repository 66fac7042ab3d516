// The text box, and the line above it that shows who is typing.

import { count, element, listen, onSubmit } from './base.js';
import { byteLength } from './text.js';

const TEXT_MOST = 4096; // bytes, as counted by the server
const COUNT_FROM = 3600; // the counter appears from here on
const TYPING_AGAIN = 3000; // interval at which "typing" is repeated
const FORGET = 5000; // typing, by others or by this person, ends this long after its last notice
const HINT_FOR = 6000;

export class Composer {
	#saidTyping = 0;
	#quietTimer;
	#hintTimer;

	/** `on`: send(text) · typing(active) · draft(text) · recall() → the person's last text */
	constructor({ form, box, counter, send, hint }, on) {
		Object.assign(this, { box, counter, send, hint, on });
		// Touch keyboards have no Shift+Enter: Enter inserts a line break, and the button sends.
		this.touch = matchMedia('(pointer: coarse)').matches;
		if (this.touch) box.enterKeyHint = 'enter';
		listen(box, 'input', () => this.#changed());
		listen(box, 'keydown', (event) => this.#key(event));
		listen(box, 'blur', () => this.#stopTyping());
		listen(box, 'paste', (event) => this.#refuseFiles(event, event.clipboardData));
		for (const name of ['dragover', 'drop']) listen(document, name, (event) => this.#refuseFiles(event, event.dataTransfer));
		onSubmit(form, () => this.#submit());
		listen(window, 'resize', () => this.#measure());
	}

	restore(text) {
		this.box.value = text;
		this.#measure();
	}

	/** Inserts a text before what is written, with the cursor at its end. */
	prepend(text) {
		this.box.value = text + this.box.value;
		this.box.focus();
		this.box.setSelectionRange(text.length, text.length);
		this.#changed();
	}

	#changed() {
		this.#measure();
		this.on.draft(this.box.value);
		if (!this.box.value.trim()) return this.#stopTyping();
		if (Date.now() - this.#saidTyping > TYPING_AGAIN) {
			this.#saidTyping = Date.now();
			this.on.typing(true);
		}
		clearTimeout(this.#quietTimer);
		this.#quietTimer = setTimeout(() => this.#stopTyping(), FORGET);
		return undefined;
	}

	#stopTyping() {
		clearTimeout(this.#quietTimer);
		if (this.#saidTyping) this.on.typing(false);
		this.#saidTyping = 0;
	}

	#key(event) {
		if (event.isComposing || event.keyCode === 229) return; // Enter within an input method
		if (event.key === 'Enter' && !event.shiftKey && !event.altKey && (!this.touch || event.ctrlKey || event.metaKey)) {
			event.preventDefault();
			this.#submit();
		} else if (event.key === 'ArrowUp' && !this.box.value) {
			event.preventDefault();
			this.box.value = this.on.recall() ?? '';
			this.#changed();
		}
	}

	/** Explains that a pasted picture or dropped file cannot be sent. */
	#refuseFiles(event, { types, files }) {
		if (!types.includes('Files') || types.includes('text/plain')) return;
		event.preventDefault();
		if (!files.length) return;
		this.hint.textContent = 'Only text can be sent here, no pictures or files.';
		clearTimeout(this.#hintTimer);
		this.#hintTimer = setTimeout(() => (this.hint.textContent = ''), HINT_FOR);
	}

	#submit() {
		const text = this.box.value.trimEnd();
		this.box.focus();
		if (!text.trim() || byteLength(text) > TEXT_MOST) return;
		this.restore('');
		this.#changed();
		this.on.send(text);
	}

	#measure() {
		const left = TEXT_MOST - byteLength(this.box.value);
		const words = left < 0 ? `${count(-left, 'byte')} too many` : `${count(left, 'byte')} left`;
		this.counter.textContent = left > TEXT_MOST - COUNT_FROM ? '' : words;
		this.counter.classList.toggle('problem', left < 0);
		this.send.disabled = left < 0 || !this.box.value.trim();
		this.box.ariaInvalid = String(left < 0);
		this.box.style.height = 'auto'; // the box grows with its text; style.css sets the maximum
		this.box.style.height = `${this.box.scrollHeight}px`;
	}
}

/** "Ada is typing". */
export class TypingLine {
	me = '';
	#until = new Map(); // name → when it expires
	#timer;

	constructor(line) {
		this.line = line;
	}

	set(name, active) {
		if (name === this.me) return;
		if (active) this.#until.set(name, Date.now() + FORGET);
		else if (!this.#until.delete(name)) return;
		this.#draw();
	}

	clear() {
		this.#until.clear();
		this.#draw();
	}

	#draw() {
		clearTimeout(this.#timer);
		const now = Date.now();
		for (const [name, until] of this.#until) if (until <= now) this.#until.delete(name);
		const [one, two, three] = [...this.#until.keys()].map((name) => element('bdi', '', name));
		if (!one) return this.line.replaceChildren();
		const words = three ? ['Several people are typing'] : two ? [one, ' and ', two, ' are typing'] : [one, ' is typing'];
		this.line.replaceChildren(...words);
		this.#timer = setTimeout(() => this.#draw(), Math.min(...this.#until.values()) - now);
		return undefined;
	}
}
