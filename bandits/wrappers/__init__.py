"""What turns one policy into another: explore evenly, forget, start warm. No inheritance; each takes a policy and gives one."""
