"""Structure-aware fuzzing of the files that cimc reads.

A *fuzzer* is a module of this package with four names:

``SUFFIX``                 of its files
``sound()``                small files as cimc writes them, by name: ``dict[str, bytes]``
``mutate(data, random)``   one change of a sound file: what was changed, in words, and the new bytes; hashes are made right
                           again, so that the change reaches the code behind them
``use(path)``              load the file and use what it holds; run in a child process

`driver.fuzz` makes case after case, each from its seed and number alone, and has it used by children with bounds-checked
kernels and limits of CPU time and memory. A case may end in a `CimcError` (refused) or without an error (ran). Another
exception, a failed assertion of ``use``, a crash, a hang or too much memory is a failure.

``make fuzz`` runs thousands of cases; `test_fuzz.py` runs some hundreds. ``python -m tests.fuzz cim --seed 0 --only 17``
repeats one case.
"""
