"""The doctor: walks the path from the browser to a job, and says for each step ok, not ok, or what to type.

``check`` holds what a step may find, ``walk`` takes the steps, ``show`` prints what came of it; ``host`` and
``cluster`` are the lists of steps, in the order of the path, and the other modules what these steps look at.
``job`` walks the whole path with a job of its own.
"""
