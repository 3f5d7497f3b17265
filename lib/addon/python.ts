/**
 * How python3 and other tools are started. Not in the current folder and not with it among the places that Python
 * imports from: `python3 -m pip` once ran the pip.py, and the search for torch found the torch, of whatever folder a
 * user stood in. -I also leaves out PYTHONPATH, in which an empty entry is the current folder. Entries of PATH that are
 * relative are looked up in the root folder, where they lead nowhere.
 */
export const ISOLATED = '-I';

/** The folder that tools are started in. */
export const TOOLS_FOLDER = '/';
