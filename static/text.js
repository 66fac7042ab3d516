// Turns what people wrote into DOM nodes, and names into colours. Everything here goes through text nodes and
// `textContent`: no string from the network is ever parsed as HTML, so markup in a name or a message is just letters.

const encoder = new TextEncoder();

/** The size that counts for the server's limit: UTF-8 bytes, the white space at the end left out. */
export const byteLength = (text) => encoder.encode(text.trimEnd()).length;

/** Two names that fold to the same string are the same person. */
export const fold = (name) => name.normalize('NFKC').toLowerCase();

/** One of twelve colours, the same for a name everywhere; the colours themselves are in style.css. */
export function colour(name) {
  let hash = 0;
  for (const char of fold(name)) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return `c${((hash ^ (hash >>> 7)) >>> 0) % 12}`;
}

/** What stands in a person's round picture: the first letter, with the marks that belong to it but not a pile of them. */
export const initial = (name) => (name.match(/\p{L}\p{M}?|\p{N}|\p{Extended_Pictographic}/u)?.[0] ?? '?').toUpperCase();

/** An element with a class and text, the way most of the page is built. */
export function element(tag, className = '', text = '') {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** A name, kept from turning the direction of the text around it. */
export const nameElement = (name, className = '') => element('bdi', className, name);

const EMOJI = /^(?:\p{Regional_Indicator}{2}|[0-9#*]\uFE0F?\u20E3|\p{Extended_Pictographic}(?:\uFE0F|\p{Emoji_Modifier})?(?:\u200D\p{Extended_Pictographic}(?:\uFE0F|\p{Emoji_Modifier})?)*|\s)+$/u;

/** Whether a text is a few emoji and nothing else; such a message is shown larger. */
export const emojiOnly = (text) => text.length <= 40 && EMOJI.test(text);

const escapeRegExp = (text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');

/** Matches `@Name` for any of the names; the longest first, so that "@Ada Lovelace" is not taken for "@Ada". */
function mentionPattern(names) {
  const sorted = [...names].sort((a, b) => b.length - a.length).map(escapeRegExp);
  return `(?<![\\p{L}\\p{N}])@(?:${sorted.join('|')})(?![\\p{L}\\p{N}])`;
}

/** Whether the text speaks to this person. */
export const mentions = (text, name) => new RegExp(mentionPattern([name]), 'iu').test(text);

// A link ends at white space, at quotes and brackets that are hardly part of it, and at invisible characters that
// would turn the direction of its letters and so make it look like another address.
const LINK = 'https?://[^\\s<>"`\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]+';
const CODE = '`[^`\\n]+`';
const FENCE = /```(?:[\w+#.-]*\n)?([\s\S]+?)\n?```/g;

/** The text as nodes: links, `code`, fenced blocks and mentions; nothing else of Markdown. */
export function render(text, me, names = []) {
  const out = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(FENCE)) {
    renderInline(out, text.slice(end, match.index).replace(/\n$/, ''), me, names);
    const block = element('pre');
    block.tabIndex = 0; // a wide block scrolls sideways, and must do so by keyboard too
    block.append(element('code', '', match[1]));
    out.append(block);
    end = match.index + match[0].length;
  }
  renderInline(out, end ? text.slice(end).replace(/^\n/, '') : text, me, names);
  return out;
}

function renderInline(out, text, me, names) {
  const everybody = new Set(names).add(me);
  const pattern = new RegExp(`${CODE}|${LINK}|${mentionPattern(everybody)}`, 'giu');
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    const [node, length] = inlineNode(match[0], me);
    if (!node) continue;
    out.append(text.slice(end, match.index), node);
    end = match.index + length;
  }
  out.append(text.slice(end));
}

function inlineNode(token, me) {
  if (token[0] === '`') return [element('code', '', token.slice(1, -1)), token.length];
  if (token[0] === '@') {
    const toMe = fold(token.slice(1)) === fold(me);
    return [element(toMe ? 'mark' : 'span', 'mention', token), token.length];
  }
  const address = withoutTail(token);
  if (!isWebAddress(address)) return [null, 0];
  const link = element('a', '', address);
  link.href = address;
  link.target = '_blank';
  link.rel = 'noopener noreferrer';
  return [link, address.length];
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

function isWebAddress(address) {
  try {
    return ['http:', 'https:'].includes(new URL(address).protocol);
  } catch {
    return false;
  }
}
