/** The part of node-gyp-build that the search for the addon uses: the tags in the names of prebuilt files. */
declare module 'node-gyp-build' {
  interface Tags {
    file: string;
  }
  const nodeGypBuild: {
    /** Undefined for a file that is no addon. */
    parseTags(file: string): Tags | undefined;
    matchTags(runtime: string, abi: string): (tags: Tags) => boolean;
    compareTags(runtime: string): (a: Tags, b: Tags) => number;
  };
  export default nodeGypBuild;
}
