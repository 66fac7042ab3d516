// The box in which one writes, and the line above it that says who else is writing.

import { byteLength, element, fold, nameElement } from './text.js';

const TEXT_MOST = 4096; // bytes, as the server counts
const COUNT_FROM = 3600; // the counter shows from here
const TYPING_AGAIN = 3000; // how often "I am typing" is repeated while it is so
const TYPING_ENDS = 4000; // no key for this long: not typing any more
const FORGET = 5000; // others' typing is forgotten unless repeated

export class Composer {
  #saidTyping = 0;
  #quietTimer = 0;

  /** `on`: send(text) · typing(active) · draft(text) · recall() → last own text */
  constructor({ form, box, counter, send }, on) {
    Object.assign(this, { form, box, counter, send, on });
    box.addEventListener('input', () => this.#changed());
    box.addEventListener('keydown', (event) => this.#key(event));
    box.addEventListener('blur', () => this.#stoppedTyping());
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    addEventListener('resize', () => this.#fit());
  }

  /** A draft that was kept. */
  restore(text) {
    this.box.value = text;
    this.#measure();
  }

  /** Address somebody: puts "@Name " where the cursor is. */
  mention(name) {
    const { value, selectionStart: at, selectionEnd } = this.box;
    const before = at > 0 && !/\s$/.test(value.slice(0, at)) ? ' ' : '';
    this.box.focus();
    this.box.setRangeText(`${before}@${name} `, at, selectionEnd, 'end');
    this.#changed();
  }

  #changed() {
    this.#measure();
    this.on.draft(this.box.value);
    const now = Date.now();
    if (!this.box.value.trim()) return this.#stoppedTyping();
    if (now - this.#saidTyping > TYPING_AGAIN) {
      this.#saidTyping = now;
      this.on.typing(true);
    }
    clearTimeout(this.#quietTimer);
    this.#quietTimer = setTimeout(() => this.#stoppedTyping(), TYPING_ENDS);
  }

  #stoppedTyping() {
    clearTimeout(this.#quietTimer);
    if (this.#saidTyping) this.on.typing(false);
    this.#saidTyping = 0;
  }

  #key(event) {
    // While an input method is composing, Enter chooses a word and is not ours.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === 'ArrowUp' && !this.box.value) {
      const text = this.on.recall();
      if (!text) return;
      event.preventDefault();
      this.box.value = text;
      this.box.setSelectionRange(text.length, text.length);
      this.#changed();
    }
  }

  #submit() {
    const text = this.box.value.trimEnd();
    this.box.focus();
    if (!text.trim() || byteLength(text) > TEXT_MOST) return;
    // A receipt of the message ends the typing line with the others, so nothing need be said about that.
    this.#saidTyping = 0;
    clearTimeout(this.#quietTimer);
    this.box.value = '';
    this.#measure();
    this.on.draft('');
    this.on.send(text);
  }

  #measure() {
    const left = TEXT_MOST - byteLength(this.box.value);
    const near = TEXT_MOST - left >= COUNT_FROM;
    this.counter.hidden = !near;
    if (near) this.counter.textContent = left >= 0 ? `${left} left` : `${-left} too many`;
    this.counter.classList.toggle('over', left < 0);
    this.box.setAttribute('aria-invalid', String(left < 0));
    this.send.disabled = left < 0 || !this.box.value.trim();
    this.#fit();
  }

  /** The box grows with its text; style.css sets the most. */
  #fit() {
    this.box.style.height = 'auto';
    this.box.style.height = `${this.box.scrollHeight}px`;
  }
}

/** "Ada is typing": each name is forgotten after five seconds unless it is repeated. */
export class TypingLine {
  me = '';
  #until = new Map(); // name → when it is forgotten
  #timer = 0;

  constructor(line) {
    this.line = line;
  }

  set(name, active) {
    if (fold(name) === fold(this.me)) return;
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
    const names = [...this.#until.keys()].map((name) => nameElement(name));
    const words = {
      0: [],
      1: [names[0], ' is typing'],
      2: [names[0], ' and ', names[1], ' are typing'],
    }[names.length] ?? ['Several people are typing'];
    this.line.replaceChildren(...words, ...(names.length ? [dots()] : []));
    if (names.length) this.#timer = setTimeout(() => this.#draw(), Math.min(...this.#until.values()) - now);
  }
}

function dots() {
  const box = element('span', 'dots');
  box.ariaHidden = 'true';
  box.append(element('i'), element('i'), element('i'));
  return box;
}
