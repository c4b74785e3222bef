const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const MOST = 4 << 20; // characters of one text; more is nobody's parameters

/** The texts of a PNG by keyword: tEXt, zTXt and iTXt. Another file, or a damaged one, has those found before. */
export async function texts(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const found = new Map();
  if (!SIGNATURE.every((one, at) => bytes[at] === one)) return found;
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin(bytes.subarray(at + 4, at + 8));
    if (kind === "IEND" || at + 12 + length > bytes.length) break;
    const read = READERS[kind];
    if (read && length <= MOST) await read(bytes.subarray(at + 8, at + 8 + length), found).catch(() => {});
    at += 12 + length;
  }
  return found;
}

const READERS = {
  async tEXt(data, found) {
    const [keyword, rest] = cut(data);
    found.set(latin(keyword), latin(rest));
  },
  async zTXt(data, found) {
    const [keyword, rest] = cut(data);
    found.set(latin(keyword), latin(await inflated(rest.subarray(1))));
  },
  async iTXt(data, found) {
    const [keyword, rest] = cut(data);
    const packed = rest[0] === 1;
    const [, afterLanguage] = cut(rest.subarray(2));
    const [, text] = cut(afterLanguage);
    found.set(latin(keyword), new TextDecoder().decode(packed ? await inflated(text) : text));
  },
};

/** What stands before the next zero, and behind it. */
function cut(bytes) {
  const at = bytes.indexOf(0);
  if (at < 0) throw new Error("no end of a keyword");
  return [bytes.subarray(0, at), bytes.subarray(at + 1)];
}

function latin(bytes) {
  return new TextDecoder("latin1").decode(bytes);
}

/** A small file may unpack into a huge one: it is read only up to MOST. */
async function inflated(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  for (let size = 0; ; ) {
    const { value, done } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > MOST) throw new Error("too long a text");
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
