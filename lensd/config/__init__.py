"""The configuration: read the YAML file into frozen models, or report all of its faults at once.

`load` finds and reads the file. `yaml_lines` parses the text and remembers the line of each key;
`document` has the models of the file as a person writes it, with `types`, `sizes` and `schedule`
for its values; `messages` explains what does not match these models; `model` has the configuration
as the program uses it; `check_paths` checks the folders on the disk. Each fault is a
`faults.Fault`. `example` makes the commented example and the JSON Schema.
"""
