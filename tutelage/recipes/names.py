"""What `tutelage list` shows of the recipes: the command and what it reproduces."""

RECIPES = [
    "python -m tutelage.recipes.pendulum          labels, flips, coins and a lesson of one's own on Pendulum-v1",
    "python -m tutelage.recipes.pebble_control    PEBBLE beside SAC on walker-walk and HalfCheetah (B-Pref)",
    "python -m tutelage.recipes.novel_behavior    a hopper's back-flip, a cheetah on one leg, a car that keeps pace, over HTTP",
    "python -m tutelage.recipes.deep_control      the deep chapter on CartPole, Pendulum, LunarLander and MuJoCo (RL-Zoo, CleanRL)",
    "python -m tutelage.recipes.many_agents       25 learners and schemes on two particle worlds (a thesis' tables 6.3 to 6.6)",
    "python -m tutelage.recipes.simple_spread     MAPPO and MATD3 on the public task, judged in mpe2",
    "python -m tutelage.recipes.preferences       Christiano's tasks and ablations; walker-walk by the line of PEBBLE; B-Pref's teachers",
    "python -m tutelage.recipes.reward_learning   700 comparisons on each of Christiano's eight tasks: correlation, and erring raters",
    "python -m tutelage.recipes.simple_tag        predators and prey, each against the other's script, judged in mpe2",
    "python -m tutelage.recipes.real_data         300 pairs and 300 thumbs of people through every stage; a reward model in five folds",
    "python -m tutelage.recipes.language          SFT, reward model, DPO, PPO and PPO-ptx in a language whose optimum is known",
    "python -m tutelage.recipes.language_challenges  AI raters, which queries, two objectives, length, rounds: each with a number",
]
