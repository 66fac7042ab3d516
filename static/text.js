// Turns what people wrote into DOM nodes, and names into colours. All of it goes through text nodes, never through HTML:
// markup in a name or a message is just letters.

export const listen = (target, name, act) => target.addEventListener(name, act);

export const onSubmit = (form, act) =>
	listen(form, 'submit', (event) => {
		event.preventDefault();
		act();
	});

/** An element with a class and children; strings become text nodes. */
export function element(tag, className = '', ...children) {
	const node = document.createElement(tag);
	node.className = className;
	node.append(...children);
	return node;
}

export function button(className, label, data = {}) {
	const node = element('button', className, label);
	Object.assign(node.dataset, data);
	return node;
}

/** The size that counts for the server's limit: UTF-8 bytes, without the white space at the end. */
export const byteLength = (text) => new TextEncoder().encode(text.trimEnd()).length;

/** Names that fold to the same string are the same person. */
export const fold = (name) => name.normalize('NFKC').toLowerCase();
export const same = (one, other) => fold(one) === fold(other);

/** A name inside a sentence, kept from turning the direction of the words around it. */
export const isolated = (name) => `\u2068${name}\u2069`;

/** Gives an element its person's colour: one of 24 hues, always the same for a name; style.css makes it readable. */
export function tint(node, name) {
	let hash = 7;
	for (const char of fold(name)) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
	node.style.setProperty('--hue', (hash % 24) * 15);
	return node;
}

/** A person's round picture: the first letter with one mark at most. */
export function picture(name) {
	const letter = name.match(/\p{L}\p{M}?|\p{N}|\p{Extended_Pictographic}/u)?.[0] ?? '?';
	const node = element('span', 'picture', letter.toUpperCase());
	node.ariaHidden = 'true';
	return node;
}

const ONE_EMOJI = '\\p{Extended_Pictographic}(?:\\uFE0F|\\p{Emoji_Modifier})?';
const EMOJI = new RegExp(`^(?:\\p{RI}{2}|[0-9#*]\\uFE0F?\\u20E3|${ONE_EMOJI}(?:\\u200D${ONE_EMOJI})*|\\s)+$`, 'u');

/** A few emoji and nothing else: shown larger. */
export const emojiOnly = (text) => text.length <= 40 && EMOJI.test(text);

/** Matches `@Name` for any of the names, the longest first: "@Ada Lovelace" is not "@Ada". */
function mentionPattern(names) {
	const sorted = names.sort((a, b) => b.length - a.length).map((name) => name.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&'));
	return `(?<![\\p{L}\\p{N}])@(?:${sorted.join('|')})(?![\\p{L}\\p{N}])`;
}

/** Whether the text speaks to this person. */
export const mentions = (text, name) => new RegExp(mentionPattern([name]), 'iu').test(text);

// A link ends at white space, quotes and brackets, and at the invisible characters that would turn the direction of its
// letters, to look like another address.
const LINK = 'https?://[^\\s<>"`\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]+';
const CODE = '`[^`\\n]+`';
const FENCE = /```(?:[\w+#.-]*\n)?([\s\S]+?)\n?```/g;

/** The text as nodes: links, `code`, fenced blocks and mentions; nothing else of Markdown. */
export function render(text, me, names) {
	const out = document.createDocumentFragment();
	const pattern = new RegExp(`${CODE}|${LINK}|${mentionPattern([me, ...names])}`, 'giu');
	let end = 0;
	for (const match of text.matchAll(FENCE)) {
		renderInline(out, text.slice(end, match.index).replace(/\n$/, ''), pattern, me);
		const block = element('pre', '', element('code', '', match[1]));
		block.tabIndex = 0; // a wide block scrolls sideways, by keyboard too
		out.append(block);
		end = match.index + match[0].length;
	}
	renderInline(out, end ? text.slice(end).replace(/^\n/, '') : text, pattern, me);
	return out;
}

function renderInline(out, text, pattern, me) {
	let end = 0;
	for (const { 0: token, index } of text.matchAll(pattern)) {
		const node = inlineNode(token, me);
		if (!node) continue;
		out.append(text.slice(end, index), node);
		end = index + (token[0] === '`' ? token : node.textContent).length;
	}
	out.append(text.slice(end));
}

function inlineNode(token, me) {
	if (token[0] === '`') return element('code', '', token.slice(1, -1));
	if (token[0] === '@') return element(same(token.slice(1), me) ? 'mark' : 'span', 'mention', token);
	const address = withoutTail(token);
	if (!URL.canParse(address)) return null; // LINK has made sure that it is http or https
	const link = element('a', '', address);
	Object.assign(link, { href: address, target: '_blank', rel: 'noopener noreferrer' });
	return link;
}

/** Leaves the punctuation after an address to the sentence; a closing bracket only if it was not opened inside. */
function withoutTail(address) {
	for (;;) {
		const last = address.at(-1);
		const unopened = last === ')' && address.split('(').length < address.split(')').length;
		if (!unopened && !/[.,;:!?'\]}*_~»”’]/.test(last)) return address;
		address = address.slice(0, -1);
	}
}
