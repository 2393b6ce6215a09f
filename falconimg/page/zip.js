/**
 * Zip files whose entries are stored, as the server makes them: results are compressed already.
 * Both ways are short, so that there is no library to keep fresh. (PKWARE's APPNOTE, 4.3.)
 */

const LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50;
const STORED = 0, UTF8 = 0x0800;
const MIDNIGHT = 0x0021; // 1980-01-01, the first day that the format knows: the same results make the same bytes

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** @param {Uint8Array} data */
function crc32(data) {
  let crc = ~0;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * The entries, in order, each a part of the given file and no copy.
 * @param {Blob} blob @returns {Promise<{name: string, blob: Blob}[]>}
 */
export async function unzip(blob) {
  const tail = new DataView(await blob.slice(-65_557).arrayBuffer()); // the end record and the longest comment
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== END) at--;
  if (at < 0) throw new Error("the answer is no whole zip");
  const count = tail.getUint16(at + 10, true), size = tail.getUint32(at + 12, true), start = tail.getUint32(at + 16, true);
  const directory = new DataView(await blob.slice(start, start + size).arrayBuffer());
  const entries = [];
  for (let number = 0, row = 0; number < count; number++) {
    if (directory.getUint32(row, true) !== CENTRAL) throw new Error("the answer is no whole zip");
    if (directory.getUint16(row + 10, true) !== STORED) throw new Error("the answer's zip is compressed");
    const [length, name, extra, comment] = [20, 28, 30, 32].map((field, i) =>
      i ? directory.getUint16(row + field, true) : directory.getUint32(row + field, true));
    const local = directory.getUint32(row + 42, true);
    const head = new DataView(await blob.slice(local, local + 30).arrayBuffer());
    const data = local + 30 + head.getUint16(26, true) + head.getUint16(28, true);
    const text = new TextDecoder().decode(new Uint8Array(directory.buffer, row + 46, name));
    entries.push({ name: text, blob: blob.slice(data, data + length) });
    row += 46 + name + extra + comment;
  }
  return entries;
}

/** @param {{name: string, blob: Blob}[]} files @returns {Promise<Blob>} */
export async function zip(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const title = new TextEncoder().encode(name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const shared = [[2, 20], [2, UTF8], [2, STORED], [2, 0], [2, MIDNIGHT], [4, crc], [4, blob.size], [4, blob.size],
                    [2, title.length], [2, 0]];
    parts.push(packed([[4, LOCAL], ...shared]), title, blob);
    directory.push(packed([[4, CENTRAL], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), title);
    offset += 30 + title.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = packed([[4, END], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Little-endian numbers of so many bytes each. @param {number[][]} fields */
function packed(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [width]) => sum + width, 0)));
  let at = 0;
  for (const [width, value] of fields) {
    if (width === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += width;
  }
  return view;
}
