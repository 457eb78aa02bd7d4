"""The hub: names become directories, directories become repositories.

`names` knows which words of a recipe are names, `files` which files of a repository a merge needs, `client` asks
huggingface_hub, `failures` tells what went wrong, `checkouts` makes directories that the engine plans from, `pushing`
uploads. Importing this imports none of huggingface_hub.
"""
