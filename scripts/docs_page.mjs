// Opens the page of the service on which its API can be tried, in jsdom, and says what it shows.
//
//     docs_page.mjs URL
//
// The page has nothing but the service: a request to anywhere else fails it.
import { JSDOM } from "jsdom";

const url = process.argv[2];
const elsewhere = [];

function prepare(window) {
  window.fetch = (request, options) => {
    const address = new URL(request.url ?? request, window.location.href);
    if (address.origin !== url) elsewhere.push(address.href);
    return fetch(address, options);
  };
  Object.assign(window, { Request, Response, Headers, structuredClone });
  const never = { matches: false, addEventListener() {}, removeEventListener() {} };
  window.matchMedia = () => never;
}

const options = { runScripts: "dangerously", resources: "usable", pretendToBeVisual: true };
const { window } = await JSDOM.fromURL(`${url}/docs`, { ...options, beforeParse: prepare });
const document = await (await fetch(`${url}/openapi.json`)).json();
const wanted = Object.values(document.paths).flatMap(Object.keys).length;
const end = Date.now() + 60_000;
let shown;
do {
  await new Promise((later) => setTimeout(later, 100));
  shown = window.document.querySelectorAll(".opblock-summary").length;
} while (shown < wanted && Date.now() < end);
console.log(`the page shows ${shown} of ${wanted} operations`);
if (elsewhere.length) console.log("asked elsewhere:", elsewhere);
process.exit(shown === wanted && elsewhere.length === 0 ? 0 : 1);
