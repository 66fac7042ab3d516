// The rows of the conversation: determines the rows of a window of the log, and builds each one.

import { button, compareIds, element, isolated } from './base.js';
import { emojiOnly, identityMark, mentions, picture, render, tint } from './text.js';

const FOLD_CHARACTERS = 1800;
const FOLD_LINES = 24;
const GROUP_WITHIN = 5 * 60_000;

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: 'full' });

/** The local midnight before a time, which is the same for all messages of a day. */
export const dayOf = (at) => new Date(at).setHours(0, 0, 0, 0);

function dayWords(day) {
	const days = Math.round((dayOf(Date.now()) - day) / 86_400_000);
	return ['Today', 'Yesterday'][days] ?? date.format(day);
}

/** "Ada joined", "Ada and Bob left", "5 people joined, Cleo left". */
export function noticeWords({ joined, left }) {
	const part = (names, verb) => (names.size > 2 ? `${names.size} people` : [...names].map(isolated).join(' and ')) + verb;
	return [joined.size && part(joined, ' joined'), left.size && part(left, ' left')].filter(Boolean).join(', ');
}

function edgeWords(log, { more, lastRead }) {
	if (more) return 'Loading older messages…';
	if (log.hasMessages) return 'These are the oldest messages kept.';
	return lastRead ? 'The messages that were here are no longer kept.' : 'No messages yet.';
}

/** The entries of a window of the log, followed by the pending messages: messages, and lines between them. A row is
 * rebuilt when its `shape` changes. */
export function entriesOf(log, pending, view) {
	const { from, to, lineAfter, isMine, me } = view;
	const entries = [];
	let lead = true; // whether the next message starts a group
	const line = (kind, key, label) => {
		entries.push({ kind, key, label, shape: label });
		lead = true;
	};
	if (from === 0 && (log.hasMessages || !view.more)) line('edge', 'edge', edgeWords(log, view));
	let last = from > log.items.length ? pending[from - log.items.length - 1] : log.messageBefore(from);
	let marked = !lineAfter || (last && compareIds(last.id, lineAfter) > 0);
	for (let i = from; i < to; i++) {
		const item = log.items[i] ?? pending[i - log.items.length];
		if (!item.text) {
			line('notice', item.key, item.label);
			continue;
		}
		if (last?.day !== item.day) line('day', `d${item.key}`, dayWords(item.day));
		const own = isMine(item);
		if (!marked && item.id && compareIds(item.id, lineAfter) > 0 && !own) {
			marked = true;
			line('new', 'new', 'New');
		}
		lead ||= last.by !== item.by || last.name !== item.name || item.at - last.at > GROUP_WITHIN;
		const { state, delay, reason } = item;
		entries.push({ ...item, lead, own, shape: `${lead} ${own} ${own && me.name === item.name} ${state} ${delay} ${reason}` });
		last = item;
		lead = false;
	}
	return entries;
}

/** Shown in place of the time until the receipt arrives. */
const STATES = { sending: 'Sending…', waiting: 'Waiting', failed: 'Not sent', rate_limited: 'Slowing down…' };

/** Builds an entry's row: { key, shape, label } for a line, otherwise a message. `me`: { name, by, index }. A row that
 * cannot be built shows its plain text, and the others are not affected. */
export function buildRow(entry, me, everybody) {
	let row;
	try {
		row = entry.label ? element('li', entry.kind, element('span', '', entry.label)) : messageRow(entry, me, everybody);
	} catch (error) {
		console.error('a row cannot be drawn', error);
		row = element('li', 'message lead', element('div', 'body', `${entry.name}: ${entry.text}`));
		if (entry.id) row.dataset.id = entry.id;
	}
	return Object.assign(row, { key: entry.key, shape: entry.shape });
}

function messageRow(entry, me, everybody) {
	const { id, text, name, lead, own, state } = entry;
	const classes = ['message', lead && 'lead', own && 'own', state, !own && mentions(text, me.index) && 'to-me'];
	const row = tint(element('li', classes.filter(Boolean).join(' ')), name);
	row.tabIndex = -1;
	if (id) row.dataset.id = id;
	if (lead && !own) row.append(picture(name));
	const body = element('div', emojiOnly(text) ? 'body emoji' : 'body', render(text, me.index, everybody));
	body.dir = 'auto';
	row.append(head(entry, me), body);
	if (text.length > FOLD_CHARACTERS || text.split('\n', FOLD_LINES + 1).length > FOLD_LINES) {
		body.classList.add('folded');
		row.append(button('unfold link', 'Show all'));
	}
	reachable(row, false);
	if (state === 'failed') {
		const { reason, ref } = entry;
		row.append(element('p', 'problem', reason, button('link', 'Try again', { retry: ref }), button('link', 'Discard', { discard: ref })));
	}
	return row;
}

function head({ name, by, at, lead, own, state, delay }, me) {
	const who = own ? (name === me.name ? 'You' : `You, as ${isolated(name)}`) : name;
	const isShown = lead && who !== 'You';
	const node = element('div', 'head', element('bdi', isShown ? 'name' : 'visually-hidden', who));
	if (lead && !own && by) node.append(identityMark(by));
	const time = element('time', '', (state === 'waiting' && STATES[delay]) || STATES[state] || clock.format(at));
	Object.assign(time, { dateTime: new Date(at).toISOString(), title: date.format(at) });
	node.append(time);
	return node;
}

/** Sets whether Tab stops inside a row. It does in one row at a time, so that a page of links is not a hundred stops. */
export function reachable(row, is) {
	for (const node of row.querySelectorAll('a, pre, .copy, .unfold, .tools button')) node.tabIndex = is ? 0 : -1;
}
