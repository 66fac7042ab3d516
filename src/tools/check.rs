//! `bobbin --check`: looks at the settings, what they lead to, and the machine, and changes nothing.
