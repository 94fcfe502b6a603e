// What the page asks its server. Answers are data; words are text and are never put in as markup.

async function answer(address, options) {
  const response = await fetch(address, options);
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
  return response;
}

const post = (name, question) => answer(name, { method: "POST", body: JSON.stringify(question) });

export const about = async () => (await answer("about")).json();
export const coordinates = async (snapshot) =>
  new Float32Array(await (await answer(`coordinates?snapshot=${snapshot}`)).arrayBuffer());
export const column = async (number) =>
  new Float32Array(await (await answer(`column?number=${number}`)).arrayBuffer());
export const untrained = async () => new Uint8Array(await (await answer("untrained")).arrayBuffer());
export const row = async (id) => (await answer(`row?id=${id}`)).json();
export const search = async (text) =>
  (await answer(`search?text=${encodeURIComponent(text)}`)).json();
export const near = async (question) => (await post("near", question)).json();
export const csv = async (question) => (await post("export", question)).blob();

const known = new Map();

// The words of rows, asked for once each.
export async function words(ids) {
  const unknown = ids.filter((id) => !known.has(id));
  for (let i = 0; i < unknown.length; i += 1000) {
    const part = unknown.slice(i, i + 1000);
    const found = await (await post("words", { ids: part })).json();
    part.forEach((id, j) => known.set(id, found[j]));
  }
  return ids.map((id) => known.get(id));
}
