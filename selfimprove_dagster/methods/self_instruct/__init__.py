"""Self-Instruct: a model extends a pool of tasks and learns from them (Wang et al., 2212.10560).

prompts      what the model is asked: new instructions, classification or not, instances
shots        the worked examples in those prompts
parsing      tasks out of a completion
instances    instances out of a completion
rules        which tasks and instances are kept, and why
statistics   how varied the tasks are
"""
