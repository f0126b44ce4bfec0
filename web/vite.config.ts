import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // the page works from any folder of any host
  build: {
    outDir: "../src/pocketdet/web/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    rollupOptions: {
      // detector.js is an entry of its own, so that a test can run it without a browser.
      input: { index: "index.html", detector: "src/detector.ts" },
      preserveEntrySignatures: "strict",
      output: { entryFileNames: "[name].js", chunkFileNames: "[name]-chunk.js", assetFileNames: "[name][extname]" },
    },
  },
});
