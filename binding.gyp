{
  # For users of node-gyp (npm rebuild, electron-rebuild): the same build as scripts/build.mjs, which writes build/Release/*.node.
  "targets": [
    {
      "target_name": "neox_prefix",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/always-run"],
          "action": ["node", "scripts/build.mjs", "--native"]
        }
      ]
    }
  ]
}
