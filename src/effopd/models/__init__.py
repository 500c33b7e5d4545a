"""Models by name: where one is, whether it can be loaded, and whether its vocabulary fits another's.

    find        from a directory, a hub name or `world:base` to the place of the files; without torch
    directory   what a model directory holds, by the names of its files; without torch
    device      the device that computes, or an error if there is none such
    load        a tokenizer or a whole model in memory
    vocabulary  whether a teacher fits a student, and how their padded vocabularies are aligned

Import from these modules: nothing is loaded here, so that reading weights costs no transformers.
"""
