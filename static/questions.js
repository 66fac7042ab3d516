// The two dialogs: the join form, and the question whether to take the seat back from another tab.

import { $, listen, onSubmit } from './base.js';

const REFUSED = {
	name_invalid: 'A name has 1 to 32 characters, at least one of them visible.',
	unauthorized: 'The passphrase is wrong.',
	locked: 'Too many wrong passphrases. Wait a moment, then try again.',
	banned: 'The host has banned you from this chat for a while.',
	tab: 'You are here in another tab. Joining moves you to this one; under another name you appear twice.',
};

const AWAY = {
	elsewhere: ['You are here in another tab', 'You continued there, so this tab has disconnected.', 'Use this tab'],
	policy: ['Disconnected', 'This page sent too much that the server could not accept.', 'Connect again'],
	locked: ['Disconnected', 'Too many wrong passphrases.', 'Connect again'],
	banned: ['Banned', 'The host has banned you from this chat for a while.', 'Try again'],
	broken: ['This page is incomplete', 'A part of it could not be loaded.', 'Reload'],
};

/** States who can read this chat and how long messages are kept, from attributes that the server sets on `<html>`. */
function aboutWords(isPrivate) {
	const { access, kept, days } = document.documentElement.dataset;
	const link = isPrivate ? 'this private link' : 'the link';
	const who = {
		passphrase: `who has ${link} and the passphrase`,
		user: `who has ${link} and is logged in`,
	}[access] ?? `who has ${link}`;
	const stay = kept && days ? ` The last ${Number(kept).toLocaleString('en')} messages stay, for up to ${days === '1' ? 'a day' : `${days} days`}.` : '';
	return `A chat room. Anyone ${who} can read and write here.${stay}`;
}

/** The next name to try: "Ada 2" after "Ada", "Ada 3" after "Ada 2". */
function nextName(name) {
	const [, stem, number] = name.match(/^(.*?)(?: (\d{1,3}))?$/s);
	return `${[...stem].slice(0, 28).join('')} ${Number(number ?? 1) + 1}`;
}

export class Questions {
	#offered; // the name that the form offered, while it is being tried
	#cancel; // called on Cancel; undefined if the dialog cannot be cancelled

	/** `on`: join(name, passphrase) · comeBack() */
	constructor(on) {
		this.on = on;
		this.usesName = document.documentElement.dataset.access !== 'user';
		onSubmit($('join'), () => this.#answer($('name').value.trim()));
		listen($('join-other'), 'click', ({ target }) => {
			this.#offered = target.value;
			$('name').value = target.value;
			this.#answer(target.value);
		});
		listen($('join-cancel'), 'click', () => this.#cancelled());
		onSubmit($('away'), () => {
			this.close();
			on.comeBack();
		});
		listen($('join'), 'cancel', (event) => {
			event.preventDefault();
			this.#cancelled();
		});
		// Escape does not close this dialog: the person has to choose.
		listen($('away'), 'cancel', (event) => event.preventDefault());
		for (const dialog of [$('join'), $('away')]) listen(dialog, 'close', () => dialog.dataset.open && dialog.showModal());
	}

	get isAsking() {
		return $('join').open;
	}

	/** Asks for a name. `reason`: an error code. `known`: { name, passphrase } as last tried. `cancel`: allows the dialog
	 * to be cancelled. */
	askWho(room, reason, known, cancel) {
		const [dialog, name, passphrase] = [$('join'), $('name'), $('passphrase')];
		if (!dialog.open) {
			name.value = known.name;
			$('join-other').hidden = true;
			$('join-room').textContent = room;
			$('join-about').textContent = aboutWords(room.startsWith('private-'));
			this.#open(dialog);
		}
		this.#cancel = cancel;
		$('join-cancel').hidden = !cancel;
		$('join-title').firstChild.data = cancel ? 'Change your name in #' : 'Join #';
		$('join-go').textContent = cancel ? 'Change' : 'Join';
		name.parentElement.hidden = !this.usesName;
		const secret = reason === 'unauthorized' || reason === 'locked';
		if (secret || document.documentElement.dataset.access === 'passphrase') passphrase.parentElement.hidden = false;
		if (known.passphrase && !passphrase.value) passphrase.value = known.passphrase;
		$('join-hint').hidden = !passphrase.parentElement.hidden || !this.usesName || Boolean(cancel);
		const words = secret && !known.passphrase ? 'This chat requires a passphrase.' : REFUSED[reason] ?? reason ?? '';
		if (reason === 'name_taken') this.#offerAnother(known);
		else this.problem(words);
		(secret ? passphrase : name).select();
	}

	/** The name is taken, perhaps by this person: offers the next free one. */
	#offerAnother({ name, passphrase }) {
		const other = $('join-other');
		other.value = nextName(name);
		if (name === this.#offered) {
			$('name').value = this.#offered = other.value;
			this.on.join(other.value, passphrase);
			return;
		}
		other.textContent = `Join as ${other.value}`;
		other.hidden = false;
		this.problem(`The name ${name} is in use here, perhaps by you on another device. Choose another.`);
	}

	problem(words) {
		if ($('join-problem').textContent !== words) $('join-problem').textContent = words;
	}

	askBack(reason) {
		const [title, text, label] = AWAY[reason];
		$('away-title').textContent = title;
		$('away-text').textContent = text;
		$('come-back').textContent = label;
		if (!$('away').open) this.#open($('away'));
	}

	/** Closes the dialogs; returns whether one was open. */
	close() {
		const open = [$('join'), $('away')].filter((dialog) => dialog.open);
		for (const dialog of open) {
			delete dialog.dataset.open;
			dialog.close();
		}
		return open.length > 0;
	}

	#open(dialog) {
		dialog.dataset.open = 'yes';
		dialog.showModal();
	}

	#answer(name) {
		$('join-other').hidden = true;
		if (name !== this.#offered) this.#offered = null;
		this.problem('');
		if (name || !this.usesName) this.on.join(name, $('passphrase').value || undefined);
		else this.problem(REFUSED.name_invalid);
	}

	#cancelled() {
		if (!this.#cancel) return;
		this.close();
		this.#cancel();
	}
}
