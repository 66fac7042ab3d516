// The box in which one writes, and the line above it that says who else is writing.

import { byteLength, element, listen, onSubmit, same } from './text.js';

const TEXT_MOST = 4096; // bytes, as the server counts
const COUNT_FROM = 3600; // the counter shows from here
const TYPING_AGAIN = 3000; // how often "I am typing" is repeated
const FORGET = 5000; // others' typing is forgotten unless repeated; one's own ends so long after the last key

export class Composer {
	#saidTyping = 0;
	#quietTimer;

	/** `on`: send(text) · typing(active) · draft(text) · recall() → last own text */
	constructor(form, box, counter, send, on) {
		Object.assign(this, { box, counter, send, on });
		listen(box, 'input', () => this.#changed());
		listen(box, 'keydown', (event) => this.#key(event));
		listen(box, 'blur', () => this.#stopTyping());
		onSubmit(form, () => this.#submit());
		listen(window, 'resize', () => this.#measure());
	}

	/** A draft that was kept. */
	restore(text) {
		this.box.value = text;
		this.#measure();
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
	}

	#stopTyping() {
		clearTimeout(this.#quietTimer);
		if (this.#saidTyping) this.on.typing(false);
		this.#saidTyping = 0;
	}

	#key(event) {
		if (event.isComposing || event.keyCode === 229) return; // an input method's own Enter
		if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
			event.preventDefault();
			this.#submit();
		} else if (event.key === 'ArrowUp' && !this.box.value) {
			event.preventDefault();
			this.box.value = this.on.recall() ?? '';
			this.#changed();
		}
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
		this.counter.textContent = left > TEXT_MOST - COUNT_FROM ? '' : left < 0 ? `${-left} too many` : `${left} left`;
		this.counter.classList.toggle('problem', left < 0);
		this.send.disabled = left < 0 || !this.box.value.trim();
		this.box.ariaInvalid = String(left < 0);
		this.box.style.height = 'auto'; // the box grows with its text; style.css sets the most
		this.box.style.height = `${this.box.scrollHeight}px`;
	}
}

/** "Ada is typing". */
export class TypingLine {
	me = '';
	#until = new Map(); // name → when it is forgotten
	#timer;

	constructor(line) {
		this.line = line;
	}

	set(name, active) {
		if (same(name, this.me)) return;
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
	}
}
