# Completion of lensd's commands, options and LoRA files, for bash 4.4 or newer.
# `lensd completion bash` prints this script. click lists words; bash itself completes file names.

_lensd() {
    local IFS=$'\n' answer type value
    for answer in $(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        _LENSD_COMPLETE=bash_complete "$1"); do
        IFS=',' read -r type value <<< "$answer"
        case $type in
            plain) COMPREPLY+=("$value") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            lora)
                compopt -o filenames -o plusdirs
                mapfile -t COMPREPLY < <(compgen -f -X '!*.safetensors' -- "$value")
                ;;
        esac
    done
}

complete -o nosort -F _lensd lensd
