// What reaches a person who is looking elsewhere: the number in the title and the icon, notifications, and the words
// for screen readers. Notifications are off until asked for.

import { element, mentions } from './text.js';

const READ_OUT_MOST = 3; // a burst is summed up rather than read out line by line

export class Alerts {
  #spoken = [];
  #timer = 0;

  /** `choice`: the select with off, mentions and all; `log`: the live region. */
  constructor({ icon, choice, hint, log }, room, store) {
    Object.assign(this, { icon, choice, hint, log, room, store });
    this.plainIcon = icon.href;
    this.unread(0);
    const can = 'Notification' in window && Notification.permission !== 'denied';
    choice.value = can && Notification.permission === 'granted' ? store.get('notify', 'off') : 'off';
    choice.addEventListener('change', () => this.#choose());
  }

  /** The number of unread messages, in the title and on the icon. */
  unread(count) {
    if (count === this.count) return;
    this.count = count;
    document.title = `${count ? `(${count}) ` : ''}#${this.room} · Bobbin`;
    this.icon.href = count ? badge(count) : this.plainIcon;
  }

  async #choose() {
    let problem = '';
    if (this.choice.value !== 'off') {
      if (!('Notification' in window)) problem = 'This browser has no notifications.';
      else if (!isSecureContext) problem = 'Notifications need a page served by https.';
      else if ((await Notification.requestPermission()) !== 'granted') problem = 'Notifications are blocked in your browser’s settings for this page.';
    }
    if (problem) this.choice.value = 'off';
    this.hint.textContent = problem;
    this.store.set('notify', this.choice.value);
  }

  /** Messages from others that have just come. */
  came(messages, me) {
    this.#readOut(messages);
    if (document.visibilityState === 'visible' && document.hasFocus()) return;
    const wanted = this.choice.value === 'all' ? messages : this.choice.value === 'mentions' ? messages.filter(({ text }) => mentions(text, me)) : [];
    if (wanted.length) this.#notify(wanted);
  }

  #notify(messages) {
    const { name, text } = messages.at(-1);
    const more = messages.length > 1 ? ` (and ${messages.length - 1} more)` : '';
    try {
      const note = new Notification(`${name} in #${this.room}${more}`, { body: text.slice(0, 200), icon: this.plainIcon, tag: `bobbin-${this.room}` });
      note.onclick = () => {
        window.focus();
        note.close();
      };
    } catch {
      // Android's Chrome has the class but wants a service worker, which this page does without.
      this.hint.textContent = 'This browser does not let the page notify you.';
    }
  }

  /** Said by screen readers when they have a pause; removed again so that nobody comes upon it while reading the page. */
  #readOut(messages) {
    this.#spoken.push(...messages.map(({ name, text }) => `${name}: ${text}`));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const lines = this.#spoken.length > READ_OUT_MOST ? [`${this.#spoken.length} new messages`] : this.#spoken;
      this.#spoken = [];
      for (const line of lines) {
        const spoken = element('p', '', line);
        this.log.append(spoken);
        setTimeout(() => spoken.remove(), 15_000);
      }
    }, 300);
  }
}

/** The icon with a number, as a data: address, the one thing besides 'self' that the page's policy lets images be. */
function badge(count) {
  const label = count > 99 ? '99' : String(count);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="#c2344a"/><text x="16" y="23" font-family="system-ui,sans-serif" font-size="19" font-weight="700" text-anchor="middle" fill="#fff">${label}</text></svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}
