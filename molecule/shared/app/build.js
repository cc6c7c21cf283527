// The front-end build: names each bundle by its content, as webpack does for Throat.
const crypto = require("crypto"), fs = require("fs");
const bundles = {
  "main.js": fs.readFileSync("node_modules/socket.io-client/dist/socket.io.min.js", "utf8") + "\n" + fs.readFileSync("live.js", "utf8"),
  "main.css": "body { font: 16px sans-serif; max-width: 60em; margin: auto }\n.error { color: #b00 }\n.live { background: #ffd }\n",
};
fs.mkdirSync("app/static/gen", { recursive: true });
const manifest = {};
for (const [name, text] of Object.entries(bundles)) {
  const hash = crypto.createHash("sha256").update(text).digest("hex").slice(0, 20);
  manifest[name] = name.replace(".", `.${hash}.`);
  fs.writeFileSync(`app/static/gen/${manifest[name]}`, text);
}
fs.writeFileSync("app/manifest.json", JSON.stringify(manifest));
