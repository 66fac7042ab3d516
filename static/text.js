// Turns texts into DOM nodes, and names and identities into pictures. Everything goes through text nodes, never through
// HTML: markup in a name or a message is plain text.
//
// Every step is linear in the text's length, and one message creates a bounded number of elements; text beyond that is
// shown unformatted.

import { button, element } from './base.js';

const ELEMENTS_MOST = 200; // per message
const MENTIONS_MOST = 100; // "@" signs examined per message

/** The size that the server limits: UTF-8 bytes, without white space at the end. */
export const byteLength = (text) => new TextEncoder().encode(text.trimEnd()).length;

// --- names

function hashOf(text) {
	let hash = 7;
	for (const char of text) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
	return hash;
}

/** Gives an element its person's colour: one of 24 hues, determined by the name; style.css makes it legible. */
export function tint(node, name) {
	node.style.setProperty('--hue', (hashOf(name.toLowerCase()) % 24) * 15);
	return node;
}

/** A person's avatar: the first letter with at most one combining mark. */
export function picture(name) {
	const letter = name.match(/\p{L}\p{M}?|\p{N}|\p{Extended_Pictographic}/u)?.[0] ?? '?';
	const node = element('span', 'picture', letter.toUpperCase());
	node.ariaHidden = 'true';
	return node;
}

const HUES = ['pink', 'red', 'orange', 'gold', 'olive', 'green', 'teal', 'cyan', 'sky', 'blue', 'violet', 'magenta'];
const SHAPES = ['circle', 'square', 'diamond', 'star', 'triangle', 'wedge'];
const SIGNS = '●■◆★▲▼○□◇☆△▽';

/** An identity's symbol: its colour and shape come from `by`, which the server derives from the sender's secret.
 * Another client under the same name has another symbol. */
export function identityMark(by) {
	const hash = hashOf(by);
	const [hue, sign] = [hash % 12, (hash >>> 5) % 12];
	const node = element('span', 'mark', SIGNS[sign]);
	node.style.setProperty('--hue', hue * 30);
	node.role = 'img';
	node.ariaLabel = `${sign < 6 ? '' : 'hollow '}${HUES[hue]} ${SHAPES[sign % 6]}`;
	node.title = `Identity: ${node.ariaLabel}, ${by.slice(0, 8)}. The same name with another mark is another person.`;
	return node;
}

const ONE_EMOJI = '\\p{Extended_Pictographic}(?:\\uFE0F|\\p{Emoji_Modifier})?';
const EMOJI = new RegExp(`^(?:\\p{RI}{2}|[0-9#*]\\uFE0F?\\u20E3|${ONE_EMOJI}(?:\\u200D${ONE_EMOJI})*|\\s)+$`, 'u');

/** Whether the text is a few emoji and nothing else: these are shown larger. */
export const emojiOnly = (text) => text.length <= 40 && EMOJI.test(text);

// --- mentions

/** Names in lower case, and their lengths, longest first, so that "@Ada Lovelace" is not taken for "@Ada". */
export function nameIndex(names) {
	const lower = new Set(Array.from(names, (name) => name.toLowerCase()));
	const lengths = new Set(Array.from(lower, (name) => name.length));
	return { lower, lengths: [...lengths].sort((a, b) => b - a) };
}

const isInWord = (text) => /^[\p{L}\p{N}]/u.test(text);
const endsInWord = (text) => /[\p{L}\p{N}]$/u.test(text);
const before = (text, at) => text.slice(Math.max(0, at - 2), at); // two code units hold any character

/** The length of the name mentioned at this "@"; 0 if there is none. */
function mentionAt(text, at, { lower, lengths }) {
	if (endsInWord(before(text, at))) return 0;
	for (const length of lengths) {
		const end = at + 1 + length;
		if (lower.has(text.slice(at + 1, end).toLowerCase()) && !isInWord(text.slice(end, end + 2))) return length;
	}
	return 0;
}

/** Whether the text mentions one of these names. */
export function mentions(text, index) {
	let at = -1;
	for (let tries = 0; tries < MENTIONS_MOST && (at = text.indexOf('@', at + 1)) >= 0; tries++) if (mentionAt(text, at, index)) return true;
	return false;
}

// --- blocks

const FENCE = '```';

/** Renders the text as nodes: links, `code`, **bold**, *italic*, mentions, "> quotes" and fenced blocks; no other
 * Markdown. `me` and `everybody`: indexes of the reader's own name and of all names here. */
export function render(text, me, everybody) {
	const out = document.createDocumentFragment();
	const writer = { me, everybody, left: ELEMENTS_MOST, mentions: MENTIONS_MOST };
	let from = 0;
	while (writer.left > 0) {
		const start = text.indexOf(FENCE, from);
		const end = start < 0 ? -1 : text.indexOf(FENCE, start + FENCE.length + 1);
		if (end < 0) break;
		const above = text.slice(from, start);
		addLines(out, above.endsWith('\n') ? above.slice(0, -1) : above, writer);
		out.append(codeBlock(text.slice(start + FENCE.length, end)));
		writer.left -= 4;
		from = end + FENCE.length;
		if (text[from] === '\n') from++;
	}
	addLines(out, text.slice(from), writer);
	return out;
}

/** The code between two fences, without the language that may follow the first. */
function codeBlock(inside) {
	const lineEnd = inside.indexOf('\n');
	let code = lineEnd >= 0 && /^[\w+#.-]*$/.test(inside.slice(0, lineEnd)) ? inside.slice(lineEnd + 1) : inside;
	if (code.endsWith('\n')) code = code.slice(0, -1);
	const block = element('pre', '', element('code', '', code || inside));
	const copy = button('copy', '', { copy: '' });
	copy.ariaLabel = 'Copy code';
	return element('div', 'block', block, copy);
}

const isQuoted = (line) => line === '>' || line.startsWith('> ');

/** Plain and quoted lines, with adjacent ones merged. */
function addLines(out, text, writer) {
	if (!text.startsWith('>') && !text.includes('\n>')) return addInline(out, text, writer);
	let group = [];
	let quoted = false;
	const flush = () => {
		if (!group.length) return;
		if (quoted) {
			const quote = element('blockquote');
			writer.left--;
			addInline(quote, group.map((line) => line.slice(2)).join('\n'), writer);
			out.append(quote);
		} else addInline(out, group.join('\n'), writer);
		group = [];
	};
	for (const line of text.split('\n')) {
		const is = isQuoted(line) && (quoted || writer.left > 0);
		if (is !== quoted) flush();
		quoted = is;
		group.push(line);
	}
	return flush();
}

// --- inside a line

// A link ends at white space, quotes and brackets, and at invisible characters that would change its direction to make
// it look like another address.
const LINK = /https?:\/\/[^\s<>"`\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+/iy;
const SPECIAL = /`|\*+|@|\n|https?:\/\//gi;

/** One pass from left to right. `parts` holds strings and finished nodes; `open` maps a number of stars to the place in
 * it of a `*` or `**` that may still be closed. */
function addInline(out, text, writer) {
	const parts = [];
	const open = [null, -1, -1];
	let done = 0; // the text up to here is in `parts`
	let at = 0;
	const push = (until, part, length) => {
		if (until > done) parts.push(text.slice(done, until));
		if (part) parts.push(part);
		done = at = until + length;
	};
	while (writer.left > 0) {
		SPECIAL.lastIndex = at;
		const found = SPECIAL.exec(text);
		if (!found) break;
		const { 0: token, index } = found;
		at = index + token.length;
		if (token === '\n') open.fill(-1);
		else if (token === '`') {
			const end = text.indexOf('`', at);
			const code = text.slice(at, Math.max(at, end));
			if (code && !code.includes('\n')) push(index, made(writer, 'code', '', code), code.length + 2);
		} else if (token === '@') {
			const length = writer.mentions-- > 0 ? mentionAt(text, index, writer.everybody) : 0;
			if (!length) continue;
			const mention = text.slice(index, index + 1 + length);
			const isMe = writer.me.lower.has(mention.slice(1).toLowerCase());
			push(index, made(writer, isMe ? 'mark' : 'span', 'mention', mention), mention.length);
		} else if (token[0] === '*') {
			addStars(token.length, index);
		} else {
			LINK.lastIndex = index;
			const run = LINK.exec(text)?.[0] ?? token;
			const address = withoutTail(run);
			if (URL.canParse(address)) push(index, link(writer, address), address.length);
			else at = index + run.length; // skipped as a whole: its contents are not parsed again
		}
	}
	push(text.length, null, 0);
	out.append(...parts);

	function addStars(stars, index) {
		if (stars > 2) return;
		const spaceBefore = index === 0 || /\s/.test(text[index - 1]);
		const end = index + stars;
		const spaceAfter = end >= text.length || /\s/.test(text[end]);
		if (open[stars] >= 0 && !spaceBefore && !isInWord(text.slice(end, end + 2))) {
			push(index, null, stars);
			const children = parts.splice(open[stars] + 1);
			parts[open[stars]] = made(writer, stars === 2 ? 'strong' : 'em', '', ...children);
			if (open[3 - stars] > open[stars]) open[3 - stars] = -1;
			open[stars] = -1;
		} else if (!spaceAfter && !endsInWord(before(text, index))) {
			push(index, '*'.repeat(stars), stars);
			open[stars] = parts.length - 1;
		}
	}
}

function made(writer, tag, ...rest) {
	writer.left--;
	return element(tag, ...rest);
}

function link(writer, address) {
	const node = made(writer, 'a', '', address);
	return Object.assign(node, { href: address, target: '_blank', rel: 'noopener noreferrer' });
}

/** Leaves the punctuation after an address to the sentence; a closing bracket only if it was not opened within. */
function withoutTail(address) {
	let unopened = 0;
	for (const char of address) unopened += char === ')' ? 1 : char === '(' ? -1 : 0;
	let end = address.length;
	for (; end > 0; end--) {
		const last = address[end - 1];
		if (last === ')' && unopened > 0) unopened--;
		else if (!/[.,;:!?'\]}*_~»”’]/.test(last)) break;
	}
	return address.slice(0, end);
}
