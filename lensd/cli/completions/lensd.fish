# Completion of lensd's commands, options and LoRA files, for fish.
# `lensd completion fish` prints this script. click lists words; fish itself completes file names.

function _lensd
    set -l answers (env _LENSD_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) \
        COMP_CWORD=(commandline -t) lensd)
    for answer in $answers
        set -l parts (string split --max 1 "," $answer)
        switch $parts[1]
            case plain
                echo $parts[2]
            case file
                __fish_complete_path $parts[2]
            case dir
                __fish_complete_directories $parts[2]
            case lora
                for name in $parts[2]*.safetensors $parts[2]*/
                    echo $name
                end
        end
    end
end

complete --no-files --command lensd --arguments "(_lensd)"
